"""CITATION.cff: the keys that the format requires, and what it must agree with."""

import re

import pytest

from tests.helpers import ROOT

TEXT = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_required_keys_and_nothing_invented():
    """https://github.com/citation-file-format/citation-file-format, schema 1.2.0"""
    top = dict(re.findall(r"^([a-z-]+):[ ]?(.*)$", TEXT, re.MULTILINE))
    assert {"cff-version", "message", "title", "authors"} <= top.keys()
    assert (top["cff-version"], top["type"], top["license"]) == ("1.2.0", "software", "MIT")
    assert not {"doi", "version", "date-released", "identifiers"} & top.keys() and "doi" not in TEXT
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_it_is_yaml():
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load(TEXT)
    assert content["authors"] == [{"name": "The qml-cifar authors"}]
    (reference,) = content["references"]
    assert {"type", "title", "authors"} <= reference.keys() and reference["type"] == "software"


def test_readme_and_citation_agree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    title = re.search(r'^title: "?(.*?)"?$', TEXT, re.MULTILINE)[1]
    assert f"title = {{{title}}}" in readme
    for url in re.findall(r"https://\S+", TEXT):
        assert f"\\url{{{url}}}" in readme
