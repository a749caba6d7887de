# New slides: what the keys `slides` and `model` name. Nothing is read unless they are set.

import os


def new_slides():
    """Name → request of every slide of the sheet that the key `slides` names."""
    if CONFIG["slides"] is None:
        return {}
    from flag_st.slides.request import read_sheet

    try:
        return {request.name: request for request in read_sheet(CONFIG["slides"])}
    except FlagError as error:
        raise WorkflowError(str(error)) from None


NEW_SLIDES = new_slides()


def image_of(name):
    """The image of a slide of the sheet, which a rule may make."""
    return os.path.normpath(NEW_SLIDES[name].path)


def read_of_slides(names):
    """The files that the check or the prediction of some slides of the sheet reads."""
    slides = [NEW_SLIDES[name] for name in names]
    more = [f for s in slides for f in (s.at, s.gene_sets, s.mask_file) if f]
    return [CONFIG["model"], *(image_of(name) for name in names), *more]


def checked_slides(wildcards):
    """The list of the slides of the sheet that were checked, if the report shows them."""
    return [] if CONFIG["model"] is None else rules.check_slides.output.checked


def reported_folders(wildcards):
    """The folders of the slides that the report shows: none, unless a model is named."""
    return [] if CONFIG["model"] is None else predicted_folders(wildcards)


def reported_explorer(wildcards):
    """The explorer of these slides."""
    return [] if CONFIG["model"] is None else rules.join_slides.output.explorer


def predicted_folders(wildcards):
    """The folders of all slides of the sheet."""
    if not NEW_SLIDES or CONFIG["model"] is None:
        raise WorkflowError(
            "predict_slides needs a sheet of slides and an exported model: "
            "snakemake predict_slides --config slides=sheet.tsv model=model.flag"
        )
    return of_new_slides(rules.predict_slide.output.folder)


def of_new_slides(pattern):
    return [pattern.format(slide=name) for name in NEW_SLIDES]


def exported_plugins(method):
    """The entries of a method and of its encoder."""
    return entry("methods", method), entry(
        "encoders", entry("methods", method)["encoder"]
    )


def model_code(script):
    """Digest of a script and of the method and encoder that the exported model names.

    A model that is exported in this very run is not there yet; then its run says what they are.
    """
    if CONFIG["model"] is None:
        return code(script)
    own = f"{RESULTS}/{RULES['export_model'].outputs['model']}"
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(own))
    if found := re.fullmatch(pattern, CONFIG["model"]):
        return code(script, *exported_plugins(found["method"]))
    from flag_st.core.io import read_facts

    try:
        facts = read_facts(CONFIG["model"])
    except FlagError as error:
        raise WorkflowError(str(error)) from None
    return code(script, facts, facts.get("encoder_entry", {}))
