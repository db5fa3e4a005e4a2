"""The settings of a small sweep."""

IMAGES, STEPS = 24, 30  # as many steps as epochs


def words(made, run, *others):
    """A sweep of trials of STEPS steps, a few milliseconds each, on what the fixture `made` has."""
    return [
        f"run_dir={run}",
        f"correspond.backbone={made / 'mae'}",
        f"correspond.data.shards={made / 'shards'}",
        f"correspond.probe_shards={made / 'shards'}",
        "correspond.loop.probe_pairs=2",
        "correspond.views=1",
        "correspond.carb.dim=8",
        "correspond.data.jpeg_noise=false",
        "correspond.optim.global_batch_size=24",
        f"correspond.optim.epochs={STEPS}",
        "correspond.loop.log_every=2",
        "correspond.runtime.device=cpu",
        *others,
    ]
