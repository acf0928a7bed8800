"""Published experiments, each one command. Names map to modules with ``reproduce(seeds, out)``."""

EXPERIMENTS: dict[str, str] = {
    "two-step": "the QMIX paper's two-step game: learned Q_tot tables beside the published ones",
}
