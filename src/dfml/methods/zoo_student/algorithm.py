"""`zoo_student`: one compact network that keeps what all members of a zoo know.

Whoever asks all members for their softmax outputs and takes the nearest class mean is ahead of both papers, but has to
keep and run the whole zoo (`zoo_embedding`). The student learns to give all these answers itself, and its answers embed
images as the members' do. It learns from images that members recall, starting from dead leaves, and from strokes of a
pen in turn where these are more familiar, and every image is put to many members: what a member says about images of
classes that it has never seen is what few-shot tasks will ask for. That the images were recalled as different classes
of the zoo is something that no single member knows: in the end, a part of every batch is an episode, whose classes the
student learns to tell apart by its answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.images import resize_and_crop, to_bytes, to_float
from dfml.inversion.agreement import CrossMemberAgreement
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import InversionConfig
from dfml.learners.base import ProtocolName
from dfml.learners.classifier import strip
from dfml.learners.embedding import HeadFit, episode_loss
from dfml.learners.episode import sample_episode_indices
from dfml.learners.student import Student, StudentEmbedding
from dfml.methods.base import Method
from dfml.methods.zoo_student.mixing import cut_and_mix
from dfml.optimisers import MuonAndAdam
from dfml.training.checkpoint import State
from dfml.training.device import Precision, computing_in, require_memory
from dfml.training.distillation_buffer import DistillationBuffer
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo

_RISE = 0.1  # of the distillation: the share in which the learning rate rises
_AGAIN = 0.2  # of the learning rate: where it begins again for the episodes


class ZooStudentConfig(TrainingConfig):
    """Settings of `zoo_student`, chosen on the validation classes of CIFAR-FS (docs/results/zoo-student.md)."""

    shot: PositiveInt = 1
    """Not used: one student serves any number of shots. Its own episodes have `episode_shot`."""
    query: PositiveInt = 15
    """Not used; see `episode_query`."""
    protocol: ProtocolName = "strict"
    """Not used: an answer of the student depends on no other image by either protocol."""
    iterations: PositiveInt = 120
    snapshot_every: PositiveInt = 25
    checkpoint_every: PositiveInt = 25
    backbone: str = "conv4_pyramid"
    """The student's: a name of `dfml.backbones.create_backbone`."""
    backbone_arguments: dict[str, Any] = Field(default_factory=dict)
    """`{channels: [64, 128, 256, 512]}` is twice as wide, takes three times as long, and is no better so far."""
    img_size: PositiveInt | None = None
    """Pixels a side of the student's input; None: the members' most common size."""
    embedding: StudentEmbedding = "centred"
    """What embeds an image in few-shot tasks: the probabilities that the student expects of every member (`answers`),
    these at temperature 2 and less those of guessing (`centred_probabilities`), or its `features`."""
    fit: HeadFit = "ridge"
    """How heads are fitted to a support set: nearest class mean by cosine, or ridge regression."""
    inversion: InversionConfig = InversionConfig(
        engine="ei",
        ei=PixelInversionConfig(
            start="auto",
            steps=30,
            lr=0.05,
            weights=InversionWeights(batch_norm=1.0, total_variation=0.01, l2=0.001),
        ),
    )
    members_per_step: PositiveInt = 1
    """Members that recall images in a meta-iteration; all take turns."""
    images_per_class: PositiveInt = 20
    """Recovered at a visit, for each of a member's classes (`inversion.classes_per_round`)."""
    mixed: NonNegativeInt = 1
    """Further images for every recovered one: parts of it and of an earlier one, cut and put together."""
    teachers: PositiveInt | None = None
    """Members that are asked about an image, drawn at random for every visit; None: all."""
    memory: PositiveInt = 100_000
    """Images that are kept at most, with their answers: 1 kB for 100 members of five classes, and 3 kB at 32 pixels a
    side."""
    student_steps: PositiveInt = 25
    """Of the student's optimiser in a meta-iteration, on average: few at first, when there are few images to learn
    from, and twice as many at the end."""
    batch: PositiveInt = 256
    """Images of a step."""
    mirror: bool = True
    """Show half of the batches in the mirror, with the same answers: true of photographs, not of letters."""
    episodic: NonNegativeFloat = 0.2
    """Weight of an episode's loss in the last steps of the student, where an episode is a part of every batch: images
    recovered as some of the zoo's classes, told apart by nearest class means as in a few-shot task. 0: none."""
    episodic_share: float = Field(default=0.15, ge=0.0, lt=1.0)
    """Of the student's steps, at the end, when it has learned what members answer: earlier, episodes only hinder."""
    episode_way: PositiveInt = 32
    """Classes of such an episode, as far as there are so many and the batch has room for them."""
    episode_shot: PositiveInt = 3
    """Support images of each of its classes."""
    episode_query: PositiveInt = 4
    """Query images of each of its classes."""
    lr: PositiveFloat = 0.01
    """Of Adam, at its highest: it rises for a tenth of the distillation, and falls to zero along a half cosine; for the
    episodes it begins again at a fifth."""
    kernel_lr: NonNegativeFloat = 0.1
    """Of Muon, which teaches the kernels of convolutions (`dfml.optimisers`), likewise. 0: Adam teaches them too."""
    temperature: PositiveFloat = 4.0
    """Of the distillation."""
    precision: Precision = "auto"
    """Of the student while it learns, and of members that are asked."""
    patience: PositiveInt = 5
    """Visits without progress after which a member recalls no more images (`dfml.inversion.failures`)."""


class ZooStudent(Method):
    """One student of all members, on images that they recall."""

    name: ClassVar[str] = "zoo_student"
    config_type: ClassVar[type[TrainingConfig]] = ZooStudentConfig
    config: ZooStudentConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        return ZooStudentRun(self.config, zoo, device)


class ZooStudentRun(TrainingRun):
    """State and meta-iteration: recover, ask, teach."""

    def __init__(self, config: ZooStudentConfig, zoo: Zoo, device: torch.device) -> None:
        self.config, self.zoo, self.device = config, zoo, device
        self.iterations = config.iterations
        outputs = [len(classes) for classes in zoo.classes.of_member]
        self.classes = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]
        self.columns = list(torch.split(torch.arange(sum(outputs), device=device), outputs))
        self.student = Student.untrained(
            config.backbone,
            config.backbone_arguments,
            outputs,
            zoo.preprocessing(config.img_size),
            embedding=config.embedding,
            fit=config.fit,
            way=config.way,
            seed=config.seed,
            name=ZooStudent.name,
        ).to(device)
        self.optimiser = MuonAndAdam(list(self.student.network.parameters()), config.lr, config.kernel_lr)
        self.updates = 0
        self.agreement = CrossMemberAgreement(zoo)
        self._messages: list[str] = []
        self.source = ImageSource(
            config.inversion,
            zoo,
            self.student.preprocessing,
            patience=config.patience,
            rows=self.columns,
            seed=config.seed,
            device=device,
        )
        visit = config.members_per_step * self.source.most_images(config.images_per_class) * (1 + config.mixed)
        capacity, size = min(config.memory, config.iterations * visit), self.student.preprocessing.size
        require_memory(
            capacity * DistillationBuffer.bytes_each(size, sum(outputs)),
            device,
            f"a memory of {capacity} images (memory), at {size} pixels a side (img_size),",
        )
        self.buffer = DistillationBuffer(capacity, size, sum(outputs), device)

    def step(self, iteration: int) -> Mapping[str, float]:
        """Recover images, ask members about them, and teach the student all answers that are kept."""
        began = time.perf_counter()
        recalled = self.source.recover(
            self.source.next_members(iteration, self.config.members_per_step),
            self.config.images_per_class,
            iteration,
            student=self._expect if self.updates else None,
            own=self.student.network.parameters(),
        )
        between = time.perf_counter()
        self._ask(recalled, iteration)
        asked = time.perf_counter()
        metrics = {**self.source.last, **self._teach(iteration)}
        if iteration == self.iterations:
            self._messages += self.agreement.warnings()
        seconds = {"recovery": between - began, "asking": asked - between, "teaching": time.perf_counter() - asked}
        return metrics | {f"{name}_seconds": value for name, value in seconds.items()}

    def _expect(self, images: Tensor, columns: Tensor | None) -> Tensor:
        """The student's logits for a member's outputs; gradients are for the images."""
        return self.student.logits(resize_and_crop(images, self.student.preprocessing.size))[:, columns]

    @torch.no_grad()
    def _ask(self, recalled: Mapping[int, Tensor], iteration: int) -> None:
        """Keep images, and mixed ones, with what some members answer, among them those that recalled them."""
        if not recalled:
            return
        images = to_bytes(torch.cat(list(recalled.values())))
        shown = to_float(torch.cat([images, *self._mix(images, iteration)]))
        answers = shown.new_full((len(shown), len(self.buffer.answers[0])), math.nan)
        others = torch.randperm(len(self.zoo), generator=seeds.generator(self.config.seed, "teachers", iteration))
        count = max(self.config.teachers or len(self.zoo), len(recalled))
        teachers = list(dict.fromkeys([*recalled, *others.tolist()]))[:count]
        for index in teachers:
            member = self.zoo[index]
            with computing_in(self.config.precision, self.device):
                logits = member.predict_logits(shown)
            answers[:, self.columns[index]] = logits.to(answers.dtype).log_softmax(dim=1)
        labels = {index: self.source.labels(index, self.config.images_per_class, iteration) for index in recalled}
        classes = torch.cat([self.classes[index][labels[index]] for index in recalled])
        self.buffer.add(to_bytes(shown), answers, functional.pad(classes, (0, len(shown) - len(classes)), value=-1))
        parts = torch.split(answers[: len(images)], [len(part) for part in recalled.values()])
        for index, given in zip(recalled, parts, strict=True):
            self.agreement.add(index, labels[index], {each: given[:, self.columns[each]] for each in teachers})

    def _mix(self, images: Tensor, iteration: int) -> list[Tensor]:
        mixed = []
        for turn in range(self.config.mixed if len(self.buffer) else 0):
            generator = seeds.generator(self.config.seed, "mix", iteration, turn)
            partners = self.buffer.images[self.buffer.sample_indices(len(images), generator)]
            mixed.append(cut_and_mix(images, partners, generator))
        return mixed

    def _teach(self, iteration: int) -> dict[str, float]:
        """Some steps of the student on images at random; tells the mean losses before them."""
        config, student = self.config, self.student
        told: dict[str, list[Tensor]] = {"distillation_loss": [], "outer_loss": []}
        of_classes = self.buffer.indices_by_class(config.episode_shot + config.episode_query)
        # Layers that draw while training (dropout, stochastic depth) use torch's global generators.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seeds.integer(config.seed, "layers", iteration))
            student.network.train()
            for turn in range(self._steps_until(iteration) - self.updates if len(self.buffer) else 0):
                draw = seeds.generator(config.seed, "batch", iteration, turn)
                chosen, way = self._choose(of_classes if self._progress()[1] else [], draw)
                images, answers = self.buffer.get(chosen)
                if config.mirror and bool(torch.randint(2, (), generator=draw)):
                    images = images.flip(-1)
                with computing_in(config.precision, self.device):
                    logits, embeddings = student.logits_and_embeddings(images)
                loss = student.groups.divergence(answers, logits, config.temperature)
                told["distillation_loss"].append(loss.detach())
                if way:
                    outer = episode_loss(embeddings, way, config.episode_shot, config.episode_query)
                    loss = loss + config.episodic * outer
                    told["outer_loss"].append(outer.detach())
                self.optimiser.descend(loss, self._rate())
                self.updates += 1
            student.network.eval()
        return {name: torch.stack(values).mean().item() for name, values in told.items() if values}

    def _choose(self, of_classes: Sequence[Tensor], draw: torch.Generator) -> tuple[Tensor, int]:
        """Indices of a batch: an episode's support and query images, class by class, then any; and the episode's way.

        Without two classes to tell apart, the way is 0, and all are any images.
        """
        config = self.config
        shot, query = config.episode_shot, config.episode_query
        way = min(config.episode_way, len(of_classes), config.batch // (shot + query))
        if way < 2:
            return self.buffer.sample_indices(config.batch, draw), 0
        sizes = torch.tensor([len(rows) for rows in of_classes])
        classes, *parts = sample_episode_indices(sizes, way, shot, query, draw)
        rows = [of_classes[label] for label in classes.tolist()]
        episode = [row[places.to(row.device)] for part in parts for row, places in zip(rows, part, strict=True)]
        rest = self.buffer.sample_indices(config.batch - way * (shot + query), draw)
        return torch.cat([*episode, rest]), way

    def _steps_until(self, iteration: int) -> int:
        """Steps of the student in all, so that every meta-iteration has more of them than the one before."""
        total = self.config.iterations * self.config.student_steps
        return round(total * (iteration / self.config.iterations) ** 2)

    def _progress(self) -> tuple[float, bool]:
        """How much of the distillation, or of the episodes on top of it, is done; and which of the two it is."""
        share = self.config.episodic_share if self.config.episodic else 0.0
        done = self.updates / (self.config.iterations * self.config.student_steps)
        return ((done - 1.0 + share) / share, True) if done > 1.0 - share else (done / (1.0 - share), False)

    def _rate(self) -> float:
        """The share of the learning rates that the next step has."""
        done, episodes = self._progress()
        if episodes:
            return _AGAIN * 0.5 * (1.0 + math.cos(math.pi * done))
        if done < _RISE:
            return max(done / _RISE, 0.01)
        return 0.5 * (1.0 + math.cos(math.pi * (done - _RISE) / (1.0 - _RISE)))

    def learner(self) -> Student:
        """See `TrainingRun.learner`."""
        return self.student.copy()

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        notes, self._messages = self._messages, []
        return [*self.source.pop_messages(), *notes]

    def state_dict(self) -> State:
        """See `TrainingRun.state`."""
        engine, values = self.source.state_dict()
        tensors = {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"buffer.{name}": value for name, value in self.buffer.state_dict().items()}
        tensors |= {f"agreement.{name}": value for name, value in self.agreement.state_dict().items()}
        tensors |= {f"student.{name}": value for name, value in self.student.network.state_dict().items()}
        tensors |= {"updates": torch.tensor(self.updates), **self.optimiser.state_dict("optimiser")}
        return State(tensors, values, frozenset(f"buffer.{name}" for name in DistillationBuffer.ROWS))

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.restore`."""
        self.source.load_state_dict(strip(state.tensors, "engine."), state.values)
        self.buffer.load_state_dict(strip(state.tensors, "buffer."))
        self.agreement.load_state_dict(strip(state.tensors, "agreement."))
        self.student.network.load_state_dict(strip(state.tensors, "student."))
        self.updates = int(state.tensors["updates"])
        self.optimiser.load_state_dict("optimiser", state.tensors)
