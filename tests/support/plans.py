"""Plans of networks that train within seconds."""

from overread.ensemble.plan import Normalisation, Plan


def tiny_plan(
    *,
    axes: int = 3,
    channels: int = 1,
    classes: int = 2,
    spacing_mm: tuple[float, ...] | None = None,
    mirror_axes: tuple[int, ...] = (0,),
) -> Plan:
    """Patches of 16 voxels an edge, three stages."""
    return Plan(
        spacing_mm=spacing_mm or (1.0,) * axes,
        patch=(16,) * axes,
        batch=2,
        kernels=((3,) * axes,) * 3,
        strides=((1,) * axes, (2,) * axes, (2,) * axes),
        features=(4, 8, 16),
        normalisation=(Normalisation("zscore"),) * channels,
        mirror_axes=mirror_axes,
        classes=classes,
    )
