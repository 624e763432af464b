"""An audit as text: what `audit_circuits.py` prints and writes to audit.txt."""

WIDTH = 24  # of the headings


def as_text(found: dict, drawing: str) -> str:
    """The audit of one circuit, as `qcifar.audit.audit` gives it, below its drawing."""
    rows = [*_size(found), *_effect(found), *_closed_form(found), *_measures(found), *_classical(found)]
    heads = ["simulability", *[""] * (len(found["simulability"]) - 1)]
    rows += [*zip(heads, found["simulability"], strict=True), *(("left out", line) for line in found["left_out"])]
    lines = [f"{name:<{WIDTH}}{text}".rstrip() for name, text in rows]
    return "\n".join([found["name"], "=" * len(found["name"]), drawing, "", *lines])


def _size(found: dict) -> list[tuple[str, str]]:
    specs = found["specs"]
    types = ", ".join(f"{count} {name}" for name, count in specs["gate_types"].items())
    larger = f", {specs['larger_gates']} on more" if specs["larger_gates"] else ""
    rows = [
        ("qubits", f"{specs['qubits']}, for {found['n_inputs']} inputs"),
        ("depth", f"{specs['depth']}"),
        ("gates", f"{specs['gates']}: {types}"),
        ("two-qubit gates", f"{specs['two_qubit_gates']}{larger}"),
        ("runs", "compiled" if found["runs_on"] == "compiled" else "on default.qubit: it cannot be compiled"),
    ]
    return rows + ([("assumed", found["note"])] if found["note"] else [])


def _effect(found: dict) -> list[tuple[str, str]]:
    effect = found["effect"]
    if effect is None:
        return []
    rows = []
    if "inert_gates" in effect:
        inert = [each["gate"] for each in effect["inert_gates"]]
        text = f"{len(inert)}: {_joined(inert)}" if inert else "none"
        if inert:
            text += "; all at once" if effect["inert_together"] else "; each alone, but not all at once"
        rows.append(("gates without effect", text))
        rows.append(("pairs without effect", _pairs(effect)))
        read = effect["read_two_qubit_gates"]
        apart = f" of {read}, taken apart into simpler gates" if read != found["specs"]["two_qubit_gates"] else ""
        rows.append(("two-qubit gates left", f"{effect['live_two_qubit_gates']}{apart}"))
        if inert or effect["inert_pairs"]:
            left = effect["entanglement_without_inert"]
            which = "them" if effect["inert_together"] else "those that can go, one by one from the end"
            rows.append(("entanglement left", f"{left:.3f} (Meyer-Wallach) without {which}"))
    if effect["weights"]:
        dead = [str(tuple(place)) for place in effect["inert_weights"]]
        text = f"{effect['live_weights']} of {effect['weights']}"
        text += f"; without effect: {_joined(dead)}" if dead else ""
        rows.append(("live weights", text))
    rows += [("tolerance", f"{effect['tolerance']:.0e} at {effect['points']} random points")]
    live = [sum(row) for row in effect["weights_of_output"]]
    for k, (inputs, form) in enumerate(zip(effect["inputs_of_output"], effect["form_of_output"], strict=True)):
        names = [f"v{i}" for i, yes in enumerate(inputs) if yes]
        weights = f" and {live[k]} of {effect['weights']} weights" if effect["weights"] else ""
        rows.append((f"output {k}", f"depends on {_joined(names) or 'no input'}{weights}: {FORMS[form]}"))
    return rows


def _pairs(effect: dict) -> str:
    """Gates that are inert together only; and whether not all pairs were tried."""
    pairs = [" with ".join(each["gate"] for each in pair) for pair in effect["inert_pairs"]]
    text = f"{len(pairs)}, inert together: {_joined(pairs)}" if pairs else "none"
    tried, there = effect["pairs_tried"], effect["pairs_there"]
    return text if tried == there else f"{text}; the nearest {tried:,} of {there:,} pairs were tried"


FORMS = {
    "constant": "constant in the inputs",
    "of one input": "a function of one input",
    "additive": "a sum of functions of single inputs",
    "a product": "a product of functions of single inputs",
    "neither": "neither a sum nor a product of functions of single inputs",
}


def _joined(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _closed_form(found: dict) -> list[tuple[str, str]]:
    closed = found.get("closed_form")
    if not closed:
        return []
    rows = []
    for output in closed["outputs"]:
        name = f"closed form {output['output']}"
        if "left_out" in output:
            rows.append((name, f"left out: {output['left_out']}"))
            continue
        at = " at random weights" if found["weight_shape"] else ""
        long = f"{output['terms_total']} terms{at}, in audit.json"
        error = "1e-12" if output["error"] < 1e-12 else f"{output['error']:.0e}"
        rows.append((name, f"{output['text'] or long}  (checked to {error})"))
    rows += [(symbol, f"angle of the gate {gate}") for symbol, gate in closed["symbols"].items()]
    if closed["features"]:
        features = closed["features"]
        rows.append(("linear map of", f"{features['text']}; the outputs span {features['rank']} of these dimensions"))
    return rows


def _measures(found: dict) -> list[tuple[str, str]]:
    rows = []
    if states := found.get("states"):
        expressed = states["expressibility"]
        blind = "; 75 bins cannot tell at this size" if expressed["blind"] else ""
        rows.append((
            "expressibility",
            f"KL {expressed['kl']:.4f} from Haar ({expressed['pairs']} pairs; as many of Haar's give "
            f"{expressed['floor']:.4f}{blind})",
        ))  # fmt: skip
        rows.append((
            "entangling capability",
            f"{states['entangling_capability']:.3f} ± {states['entangling_error']:.3f} (Meyer-Wallach)",
        ))  # fmt: skip
    if algebra := found.get("lie_algebra"):
        rows.append(("Lie algebra", f"{algebra['dimension']} of {algebra['full']} dimensions"))
    if gradients := found.get("gradients"):
        for name, key in (("gradient variance, N", "qubits"), ("gradient variance, L", "layers")):
            values = ", ".join(f"{size}: {value:.3g}" for size, value in gradients[key].items())
            if values:
                rows.append((name, f"{values}  (by {gradients['by']}, {gradients['samples']} samples)"))
        if gradients["exponent"] is not None:
            rows.append(("fit", f"variance ~ 2^({-gradients['exponent']:.2f} N)"))
        rows += [("", line) for line in gradients["left_out"]]
    return rows


def _classical(found: dict) -> list[tuple[str, str]]:
    classical = found["classical"]
    if classical is None:
        return []

    def shown(values):
        return ", ".join("constant" if value is None else f"{value:.3f}" for value in values)

    return [
        ("regressions on", classical["inputs"]),
        ("R2, linear", shown(classical["linear"])),
        ("R2, quadratic", shown(classical["quadratic"])),
        (
            "effective rank",
            f"{classical['effective_rank']:.2f} of {len(classical['linear'])} outputs "
            f"(inputs: {classical['input_rank']:.2f} of {found['n_inputs']})",
        ),
    ]
