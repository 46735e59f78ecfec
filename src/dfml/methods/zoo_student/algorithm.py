"""`zoo_student`: distil all members of a zoo into one compact network, whose predictions embed images.

The softmax outputs of all members, side by side, with the nearest class mean are more accurate in few-shot tasks than
the learners of PURER and FREE, but need the whole zoo at test time (`zoo_embedding`). The student is trained to predict
the outputs of all members, so that its predictions can take the place of theirs. A meta-iteration:

1. Inversion: recover images of the classes of some members, starting from dead leaves or pen strokes.
2. Query: many members predict their classes for every image, and for mixtures of images (CutMix). Predictions for
   images of classes outside of a member's label set matter most: those are what few-shot tasks consist of.
3. Distillation: train the student on all images so far. In the last meta-iterations a part of every batch is an
   episode whose classes are the zoo's, because no single member distinguishes classes of different members.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.images import resize_and_crop, to_bytes, to_float
from dfml.inversion.agreement import CrossMemberAgreement
from dfml.inversion.image_source import ImageSource
from dfml.inversion.registry import LearnedEngine
from dfml.learners.classifier import strip
from dfml.learners.embedding import episode_loss
from dfml.learners.episode import sample_episode_indices
from dfml.learners.student import Student
from dfml.methods.base import Method
from dfml.methods.zoo_student.config import ZooStudentConfig
from dfml.methods.zoo_student.mixing import cut_and_mix
from dfml.optimisers import MuonAndAdam
from dfml.schedules import half_cosine
from dfml.training.checkpoint import State
from dfml.training.device import computing_in, require_memory
from dfml.training.distillation_buffer import DistillationBuffer
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.metrics import describe_inversion_metrics
from dfml.zoo.members import teacher_logits
from dfml.zoo.zoo import Zoo

_WARM_UP = 0.1  # fraction of the distillation in which the learning rate rises
_EPISODIC_RATE = 0.2  # learning rate at the beginning of the episodic steps, as a fraction of the highest


class ZooStudent(Method):
    """Distillation of all members into one student, on images recovered from them."""

    name: ClassVar[str] = "zoo_student"
    config_type: ClassVar[type[TrainingConfig]] = ZooStudentConfig
    config: ZooStudentConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        return ZooStudentRun(self.config, zoo, device)


class ZooStudentRun(TrainingRun):
    """The state of `zoo_student`: student and optimiser, inversion engine, distillation buffer."""

    images_caption = "Newest images that were recovered from the members and that the student was trained on."

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
        per_step = config.members_per_step * self.source.most_images(config.images_per_class) * (1 + config.mixed)
        capacity, size = min(config.memory, config.iterations * per_step), self.student.preprocessing.size
        require_memory(
            capacity * DistillationBuffer.bytes_per_image(size, sum(outputs)),
            device,
            f"a memory of {capacity} images (memory), of side length {size} pixels (img_size),",
        )
        self.buffer = DistillationBuffer(capacity, size, sum(outputs), device)

    def step(self, iteration: int) -> Mapping[str, float]:
        """One meta-iteration: invert some members, query the teachers about the images, distil into the student."""
        start = time.perf_counter()
        recovered = self.source.recover(
            self.source.next_members(iteration, self.config.members_per_step),
            self.config.images_per_class,
            iteration,
            student=self._student_logits if self.updates else None,
            own=self.student.network.parameters(),
        )
        inverted = time.perf_counter()
        self._query_teachers(recovered, iteration)
        queried = time.perf_counter()
        metrics = {**self.source.last, **self._distil(iteration)}
        if iteration == self.iterations:
            self._messages += self.agreement.warnings()
        return metrics | {
            "recovery_seconds": inverted - start,
            "query_seconds": queried - inverted,
            "distillation_seconds": time.perf_counter() - queried,
        }

    def _student_logits(self, images: Tensor, columns: Tensor | None) -> Tensor:
        """The student's logits for the outputs of a member; gradients reach the images."""
        return self.student.logits(resize_and_crop(images, self.student.preprocessing.size))[:, columns]

    @torch.no_grad()
    def _query_teachers(self, recovered: Mapping[int, Tensor], iteration: int) -> None:
        """Store recovered and mixed images with the predictions of some members.

        Args:
            recovered: Images by the member that they were recovered from; these members are among the teachers.
            iteration: Number of the meta-iteration.
        """
        if not recovered:
            return
        originals = to_bytes(torch.cat(list(recovered.values())))
        images = to_float(torch.cat([originals, *self._mix(originals, iteration)]))
        predictions = images.new_full((len(images), self.buffer.log_probabilities.shape[1]), math.nan)
        others = torch.randperm(len(self.zoo), generator=seeds.generator(self.config.seed, "teachers", iteration))
        count = max(self.config.teachers or len(self.zoo), len(recovered))
        teachers = list(dict.fromkeys([*recovered, *others.tolist()]))[:count]
        for index in teachers:
            member = self.zoo[index]
            with computing_in(self.config.precision, self.device):
                logits = teacher_logits(member, images)
            predictions[:, self.columns[index]] = logits.to(predictions.dtype).log_softmax(dim=1)
        labels = {index: self.source.labels(index, self.config.images_per_class, iteration) for index in recovered}
        classes = torch.cat([self.classes[index][labels[index]] for index in recovered])
        classes = functional.pad(classes, (0, len(images) - len(classes)), value=-1)  # mixed images have no class
        self.buffer.add(to_bytes(images), predictions, classes)
        parts = torch.split(predictions[: len(originals)], [len(part) for part in recovered.values()])
        for index, part in zip(recovered, parts, strict=True):
            self.agreement.add(index, labels[index], {each: part[:, self.columns[each]] for each in teachers})

    def _mix(self, images: Tensor, iteration: int) -> list[Tensor]:
        """Mixtures of images with earlier ones, which the buffer holds; none while it is empty."""
        mixed = []
        for turn in range(self.config.mixed if len(self.buffer) else 0):
            generator = seeds.generator(self.config.seed, "mix", iteration, turn)
            partners = self.buffer.images[self.buffer.sample_indices(len(images), generator)]
            mixed.append(cut_and_mix(images, partners, generator))
        return mixed

    def _distil(self, iteration: int) -> dict[str, float]:
        """Train the student for some steps; returns the mean losses, each before its step."""
        config, student = self.config, self.student
        losses: dict[str, list[Tensor]] = {"distillation_loss": [], "outer_loss": []}
        slots_by_class = self.buffer.indices_by_class(config.episode_shot + config.episode_query)
        # Layers with random numbers (dropout, stochastic depth) use torch's global generators.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seeds.integer(config.seed, "layers", iteration))
            student.network.train()
            for turn in range(self._steps_until(iteration) - self.updates if len(self.buffer) else 0):
                generator = seeds.generator(config.seed, "batch", iteration, turn)
                slots, way = self._sample_batch(slots_by_class if self._progress()[1] else [], generator)
                images, predictions = self.buffer.get(slots)
                if config.mirror and bool(torch.randint(2, (), generator=generator)):
                    images = images.flip(-1)
                with computing_in(config.precision, self.device):
                    logits, embeddings = student.logits_and_embeddings(images)
                loss = student.groups.divergence(predictions, logits, config.temperature)
                losses["distillation_loss"].append(loss.detach())
                if way:
                    outer_loss = episode_loss(embeddings, way, config.episode_shot, config.episode_query)
                    loss = loss + config.episodic * outer_loss
                    losses["outer_loss"].append(outer_loss.detach())
                self.optimiser.descend(loss, self._rate())
                self.updates += 1
            student.network.eval()
        return {name: torch.stack(values).mean().item() for name, values in losses.items() if values}

    def _sample_batch(self, slots_by_class: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, int]:
        """Sample a batch of images, which may begin with an episode.

        Args:
            slots_by_class: Slots of the images of each class that has enough of them; empty for no episode.
            generator: Random generator on the CPU.

        Returns:
            Slots of the buffer: those of the episode's support images, class by class, of its query images, class by
            class, and of other images; and the way of the episode, 0 if there are not two classes for it.
        """
        config = self.config
        shot, query = config.episode_shot, config.episode_query
        way = min(config.episode_way, len(slots_by_class), config.batch // (shot + query))
        if way < 2:
            return self.buffer.sample_indices(config.batch, generator), 0
        counts = torch.tensor([len(slots) for slots in slots_by_class])
        classes, *parts = sample_episode_indices(counts, way, shot, query, generator)
        rows = [slots_by_class[label] for label in classes.tolist()]
        episode = [row[indices.to(row.device)] for part in parts for row, indices in zip(rows, part, strict=True)]
        others = self.buffer.sample_indices(config.batch - way * (shot + query), generator)
        return torch.cat([*episode, others]), way

    def _steps_until(self, iteration: int) -> int:
        """Number of the student's steps up to a meta-iteration; it grows with the square of the iteration."""
        total = self.config.iterations * self.config.student_steps
        return round(total * (iteration / self.config.iterations) ** 2)

    def _progress(self) -> tuple[float, bool]:
        """Finished fraction of the current phase, and whether this is the episodic phase at the end."""
        share = self.config.episodic_share if self.config.episodic else 0.0
        done = self.updates / (self.config.iterations * self.config.student_steps)
        return ((done - 1.0 + share) / share, True) if done > 1.0 - share else (done / (1.0 - share), False)

    def _rate(self) -> float:
        """Learning rate of the next step as a fraction of the highest one."""
        done, episodic = self._progress()
        if episodic:
            return _EPISODIC_RATE * half_cosine(done)
        if done < _WARM_UP:
            return max(done / _WARM_UP, 0.01)
        return half_cosine((done - _WARM_UP) / (1.0 - _WARM_UP))

    def learner(self) -> Student:
        """See `TrainingRun.learner`."""
        return self.student.copy()

    def pop_messages(self) -> list[str]:
        """See `TrainingRun.pop_messages`."""
        messages, self._messages = self._messages, []
        return [*self.source.pop_messages(), *messages]

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        return {
            "outer_loss": MetricDescription(
                "episodic loss",
                "Episodic loss: cross-entropy of the student on the query images of episodes of the zoo's classes.",
                panel="losses",
                headline=True,
            ),
            "distillation_loss": MetricDescription(
                "distillation loss",
                "Distillation loss: KL divergence of the student's predictions from the members' predictions.",
                panel="losses",
                headline=True,
            ),
            **describe_inversion_metrics(disagreement=True),
        }

    def images(self, class_index: int, count: int) -> Float[Tensor, "images 3 size size"]:
        """See `TrainingRun.images`."""
        return self.buffer.newest(class_index, count)

    def learned_engine(self) -> LearnedEngine | None:
        """See `TrainingRun.learned_engine`."""
        return self.source.learned_engine()

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`."""
        engine, values = self.source.state_dict()
        tensors = {f"engine.{name}": value for name, value in engine.items()}
        tensors |= {f"buffer.{name}": value for name, value in self.buffer.state_dict().items()}
        tensors |= {f"agreement.{name}": value for name, value in self.agreement.state_dict().items()}
        tensors |= {f"student.{name}": value for name, value in self.student.network.state_dict().items()}
        tensors |= {"updates": torch.tensor(self.updates), **self.optimiser.state_dict("optimiser")}
        return State(tensors, values, frozenset(f"buffer.{name}" for name in DistillationBuffer.ROWS))

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        self.source.load_state_dict(strip(state.tensors, "engine."), state.values)
        self.buffer.load_state_dict(strip(state.tensors, "buffer."))
        self.agreement.load_state_dict(strip(state.tensors, "agreement."))
        self.student.network.load_state_dict(strip(state.tensors, "student."))
        self.updates = int(state.tensors["updates"])
        self.optimiser.load_state_dict("optimiser", state.tensors)
