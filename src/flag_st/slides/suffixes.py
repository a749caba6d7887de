"""Suffixes of the images that ``flag_st.slides.files.open_reader`` reads; planners import nothing else."""

#: Scanners' formats that are one file (mrxs and vms have more beside it), any TIFF, and plain pictures.
#: Files without one of these are read all the same where they are named.
SUFFIXES = (
    *(".tif", ".tiff", ".btf"),
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"),
    *(".png", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp"),
)
