"""What is compared: how each arm is trained within the same budget, and who then plays with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from overread.domain import BadInputError, Registry
from overread.ensemble.compute import choose_device, lay_out
from overread.ensemble.member_training import write_json
from overread.ensemble.plan import Plan
from overread.meduhip.backend import Cache
from overread.meduhip.episode import NOTHING, EpisodeOptions, in_precision
from overread.meduhip.mirrors import mirrors_along
from overread.meduhip.network import Configuration, MedUHIP
from overread.meduhip.session import answer, begin
from overread.meduhip.training import (
    MedUHIPOptions,
    PatchSource,
    averaged,
    clicking,
    train_meduhip,
)
from overread.meduhip.vote import counted_log_odds, log_soft_vote
from overread.studies.meduhip.clinicians import (
    CLICKS,
    CLINICIAN_DISAGREEMENT,
    EITHER,
    NOISY_CLICKS,
    NOISY_EITHER,
    NOISY_PICKS,
    PICKS,
    RANDOM_SELECT,
    Clinician,
)
from overread.studies.meduhip.players import FixedPlayer, MedUHIPPlayer, PickingPlayer, Player
from overread.studies.meduhip.probabilistic_unet import ProbabilisticUNet

# Of an arm's budget, this share goes into masks without any interaction. All arms on the same backbone begin with the
# same weights from there.
WARM_SHARE = 0.5
# Of the rest, a MedUHIP model learns clicks with one opinion before it has several (chosen on validation cases).
CLICK_SHARE = 0.5
MEMBERS = 5
PLAIN = EpisodeOptions(turns=1, samples=1, set_weight=0.0, coverage_weight=0.0, sampler=NOTHING)
LONGEST_PAUSE_S = 60.0
# What is left of MedUHIP, by what is taken out (see `ABLATIONS`). The first three are those of the paper's table 4.
ABLATED = {
    "sampling alone": ("Mean-Variance Network", "weights"),
    "means and variances untouched": ("Mean-Variance Network",),
    "even weights": ("weights",),
    "posterior without Weight Network": ("Weight Network",),
    "means not moved": ("moved means",),
    "no level": ("level",),
}


@dataclass(frozen=True)
class Bench:
    """What one fold with one seed offers its arms.

    Attributes:
        work: its folder.
        cases: ids to learn from, prepared below `data`.
        data: folder that holds `cases/`.
        plan, configuration: of all arms.
        minutes: budget of an arm, of one core's time.
        seed: of everything random.
        device: to train on.
    """

    work: Path
    cases: tuple[str, ...]
    data: Path
    plan: Plan
    configuration: Configuration
    minutes: float
    seed: int
    device: str = "cpu"

    def train(
        self,
        name: str,
        episode: EpisodeOptions,
        share: float,
        seed: int = 0,
        *,
        warm: bool = True,
        click_share: float = 0.0,
    ) -> MedUHIP:
        """Train, or load what was trained, with a share of the budget."""
        finished = self.work / f"{name}.pt"
        model = MedUHIP(self.configuration)
        if finished.exists():
            model.load_state_dict(torch.load(finished, weights_only=True))
            return self._looking(model)
        start = self.train("warm", PLAIN, WARM_SHARE, warm=False) if warm else None
        options = MedUHIPOptions(
            minutes=share * self.minutes,
            warm_share=0.0,
            click_share=click_share,
            seed=1000 * self.seed + seed,
            device=self.device,
            threads=1,
            augmentation="light",
            clock="processor",
            episode=episode,
            checkpoint_every_s=LONGEST_PAUSE_S,
        )
        folder = self.work / f".{name}"
        folder.mkdir(parents=True, exist_ok=True)
        model = train_meduhip(
            folder,
            self.cases,
            self.plan,
            self.configuration,
            options,
            report=lambda progress: write_json({"episodes": progress.iteration}, folder / "episodes.json"),
            start=start,
            prepared=self.data,
        ).cpu()
        _save(model, finished)
        return self._looking(model)

    def _looking(self, model: MedUHIP) -> MedUHIP:
        """A trained model that looks at mirror images too, as models in service do; so does every arm."""
        model.mirrors = mirrors_along(self.plan.mirror_axes, self.configuration.axes)
        return model.eval()


@dataclass(frozen=True)
class Contest:
    """One row of the table: a system and the clinician who works with it.

    Attributes:
        name: in the table.
        player: the system.
        clinician: who works with it.
        interacts: whether anything can change after the first answer.
    """

    name: str
    player: Player
    clinician: Clinician
    interacts: bool = True


Arm = Callable[[Bench], Sequence[Contest]]
ARMS: Registry[Arm] = Registry("arm")


@ARMS.register("unet")
def unet(bench: Bench) -> Sequence[Contest]:
    """A U-Net on the mean of the raters; the backbone of all other arms."""
    model = bench.train("unet", PLAIN, 1 - WARM_SHARE)

    def logits(image: torch.Tensor) -> torch.Tensor:
        return _plain_logits(model, image)

    return [
        Contest("U-Net", FixedPlayer(logits), CLICKS, interacts=False),
        Contest("U-Net, clicks painted in", FixedPlayer(logits, honours=True), CLICKS),
        Contest("U-Net, clicks painted in, noisy clinician", FixedPlayer(logits, honours=True), NOISY_CLICKS),
    ]


@ARMS.register("meduhip")
def meduhip(bench: Bench) -> Sequence[Contest]:
    """MedUHIP, with every clinician."""
    model = train_ours(bench)
    full = MedUHIPPlayer(model)

    @torch.no_grad()
    def draw(image: torch.Tensor, seed: int) -> torch.Tensor:
        return answer(model, full.opened(image), begin(model, "", "", seed=seed)).turn.logits[0]

    return [
        Contest("MedUHIP", full, EITHER),
        Contest("MedUHIP, clicks only", full, CLICKS),
        Contest("MedUHIP, picks only", full, PICKS),
        Contest("MedUHIP, noisy clinician", full, NOISY_EITHER),
        Contest("MedUHIP, Random Select clicks", full, RANDOM_SELECT),
        Contest("MedUHIP, Clinician Disagreement clicks", full, CLINICIAN_DISAGREEMENT),
        Contest("MedUHIP without adaptation (best of K)", PickingPlayer(draw), PICKS),
        Contest(
            "MedUHIP without adaptation, picks, and clicks painted in",
            PickingPlayer(draw, honours=True),
            EITHER,
        ),
    ]


@ARMS.register("ablations")
def ablations(bench: Bench) -> Sequence[Contest]:
    """The same networks whole, with parts switched off, or with the samples' votes counted; nothing more is trained.

    The whole is played here too, as `meduhip` plays it, so that this arm needs no other beside it.
    """
    model = train_ours(bench)
    return [
        Contest("MedUHIP", MedUHIPPlayer(model), EITHER),
        Contest("MedUHIP, votes counted (eq. 2)", MedUHIPPlayer(model, vote=counted_log_odds), EITHER),
        *(
            Contest(f"MedUHIP, {name}", MedUHIPPlayer(model, without=without), EITHER)
            for name, without in ABLATED.items()
        ),
    ]


def train_ours(bench: Bench) -> MedUHIP:
    """MedUHIP with all its parts."""
    return bench.train("meduhip", EpisodeOptions(), 1 - WARM_SHARE, click_share=CLICK_SHARE)


@ARMS.register("clicks")
def clicks(bench: Bench) -> Sequence[Contest]:
    """One sample and clicks on the same backbone: what an interactive network does without a sampling space."""
    model = bench.train("clicks", clicking(EpisodeOptions()), 1 - WARM_SHARE)
    single = MedUHIPPlayer(model, sampler=NOTHING)
    return [
        Contest("Clicks, one sample", single, CLICKS),
        Contest("Clicks, one sample, with a level", replace(single, moves_level=True), CLICKS),
        Contest("Clicks, one sample, noisy clinician", single, NOISY_CLICKS),
    ]


@ARMS.register("collapsed")
def collapsed(bench: Bench) -> Sequence[Contest]:
    """MedUHIP with one averaged Gaussian in place of the mixture, in training and in play."""
    episode = replace(EpisodeOptions(), sampler="collapsed")
    model = bench.train("collapsed", episode, 1 - WARM_SHARE, click_share=CLICK_SHARE)
    return [Contest("MedUHIP, one averaged Gaussian", MedUHIPPlayer(model, sampler=episode.sampler), EITHER)]


@ARMS.register("ensemble")
def ensemble(bench: Bench) -> Sequence[Contest]:
    """Five U-Nets that share the budget."""
    models = [
        bench.train(f"member_{index}", PLAIN, 1 / MEMBERS, seed=1 + index, warm=False)
        for index in range(MEMBERS)
    ]

    def logits(image: torch.Tensor) -> torch.Tensor:
        said = torch.stack([_plain_logits(model, image) for model in models])
        inside, outside = log_soft_vote(said[None])
        return (inside - outside)[0]

    return [
        Contest("Ensemble of 5", FixedPlayer(logits), CLICKS, interacts=False),
        Contest("Ensemble of 5, clicks painted in", FixedPlayer(logits, honours=True), CLICKS),
        Contest(
            "Ensemble of 5, clicks painted in, noisy clinician",
            FixedPlayer(logits, honours=True),
            NOISY_CLICKS,
        ),
    ]


@ARMS.register("probunet")
def probunet(bench: Bench) -> Sequence[Contest]:
    """The Probabilistic U-Net; the clinician picks, or picks and paints clicks in; nothing is learnt from it."""
    model = _train_probunet(bench)
    last: list[tuple[torch.Tensor, Cache]] = []

    @torch.no_grad()
    def draw(image: torch.Tensor, seed: int) -> torch.Tensor:
        if not last or last[0][0] is not image:
            last[:] = [(image, model.encode(image[None]))]
        generator = torch.Generator().manual_seed(seed)
        return model.draw(last[0][1], bench.configuration.samples, generator)[0]

    picking, painting = PickingPlayer(draw), PickingPlayer(draw, honours=True)
    return [
        Contest("Probabilistic U-Net (best of K)", picking, PICKS),
        Contest("Probabilistic U-Net (best of K), noisy clinician", picking, NOISY_PICKS),
        Contest("Probabilistic U-Net, picks, and clicks painted in", painting, EITHER),
        Contest("Probabilistic U-Net, picks, and clicks painted in, noisy clinician", painting, NOISY_EITHER),
    ]


def _train_probunet(bench: Bench) -> ProbabilisticUNet:
    configuration = bench.configuration
    finished = bench.work / "probunet.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        model = ProbabilisticUNet(configuration.axes, configuration.channels, configuration.width)
    mirrors = mirrors_along(bench.plan.mirror_axes, configuration.axes)
    if finished.exists():
        model.load_state_dict(torch.load(finished, weights_only=True))
        model.mirrors = mirrors
        return model.eval()
    source = PatchSource(bench.data, bench.cases, bench.plan, bench.seed)
    options, device = MedUHIPOptions(), choose_device(bench.device)
    precision = options.multiplies_in(device, configuration.axes)
    lay_out(model, device, configuration.axes, precision)
    optimiser = torch.optim.AdamW(model.parameters(), options.learning_rate, betas=(0.9, 0.99))
    average = {name: value.detach().clone() for name, value in averaged(model)}
    began, iteration = time.thread_time(), 0
    torch.set_num_threads(1)
    while (share := (time.thread_time() - began) / (60 * bench.minutes)) < 1:
        images, raters = (part.to(device) for part in source.batch(iteration, 0))
        generator = torch.Generator().manual_seed(iteration)
        index = torch.randint(raters.shape[1], (len(raters),), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * (1 - share) ** 0.9
        optimiser.zero_grad()
        chosen = raters[torch.arange(len(raters), device=device), index.to(device)]
        with in_precision(device, precision):
            loss = model.loss(images, chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12.0)
        optimiser.step()
        weight = 1 - min(0.99, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for name, value in averaged(model):
                average[name].lerp_(value, weight)
        iteration += 1
    with torch.no_grad():
        for name, value in averaged(model):
            value.copy_(average[name])
    model.cpu()
    _save(model, finished)
    model.mirrors = mirrors
    return model.eval()


@torch.no_grad()
def _plain_logits(model: MedUHIP, image: torch.Tensor) -> torch.Tensor:
    player = MedUHIPPlayer(model, sampler=NOTHING)
    return player.answers(player.opened(image), begin(model, "", "")).logits


def _save(model: torch.nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    torch.save(model.state_dict(), temporary)
    temporary.replace(path)


def arms_named(names: Sequence[str]) -> list[str]:
    """The names, checked; all arms where none is given. Raises BadInputError for an unknown one."""
    for name in names:
        if name not in ARMS:
            raise BadInputError(f"no arm is called {name!r}; there are {', '.join(ARMS)}")
    return list(names) or list(ARMS)
