"""The field of view of a patch: how much tissue its fixed number of pixels shows."""

#: Edge of every patch in pixels, and µm per pixel of the standard patches (HEST-1k and UNI have the same).
SIZE, UM_PER_PX = 224, 0.5
#: Edge in µm of the tissue that a standard patch shows.
FIELD_UM = 112


def um_per_px(field_um: float) -> float:
    """µm per pixel of a patch that shows ``field_um`` µm of tissue."""
    return field_um / SIZE
