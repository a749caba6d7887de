# New slides: what the keys `slides` and `model` name. Nothing is read unless they are set.


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


def model_code(script):
    """Digest of a script and of the method and encoder that the exported model names."""
    if CONFIG["model"] is None:
        return code(script)
    from flag_st.core.io import read_facts

    try:
        facts = read_facts(CONFIG["model"])
    except FlagError as error:
        raise WorkflowError(str(error)) from None
    return code(script, facts, facts.get("encoder_entry", {}))
