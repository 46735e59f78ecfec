"""`zoo_student`: distil all members of a zoo into one compact network, whose predictions embed images.

The softmax outputs of all members, side by side, with the nearest class mean are more accurate in few-shot tasks than
the learners of PURER and FREE, but need the whole zoo at test time (`zoo_embedding`). The student is trained to predict
the outputs of all members, so that its predictions can replace theirs. A meta-iteration:

1. Inversion: recover images of the classes of some members, by default from initial pixels that are dead leaves
   (random overlapping shapes) or pen strokes (`dfml.inversion.initialisation`).
2. Query: many members predict their classes for every image, and for mixtures of images (CutMix). Predictions for
   images of classes outside of a member's label set matter most: few-shot tasks consist of such images.
3. Distillation: train the student on random batches of the images in the buffer (the newest `memory` ones, also of
   earlier meta-iterations). In the last optimiser steps (`episodic_share` of all), a part of every batch is a few-shot
   episode, whose classes may come from different members, and the cross-entropy on its query images is added to the
   loss: the predictions of a member compare its own classes only, so that distillation alone does not train the
   student to tell classes of different members apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dfml import seeds
from dfml.images import resize_and_crop, to_bytes, to_float
from dfml.inversion.agreement import CrossMemberAgreement
from dfml.inversion.image_source import ImageSource
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.inversion.registry import LearnedEngine
from dfml.learners.classifier import read_preprocessing, select_prefix
from dfml.learners.embedding import episode_loss
from dfml.learners.episode import sample_episode_indices
from dfml.learners.student import Student
from dfml.methods.base import Method
from dfml.methods.zoo_student.config import ZooStudentConfig
from dfml.methods.zoo_student.growing import describe_members, grown_state, head_names
from dfml.methods.zoo_student.metric_descriptions import describe_student_metrics
from dfml.methods.zoo_student.mixing import cut_and_mix
from dfml.optimisers import MuonAndAdam
from dfml.schedules import half_cosine
from dfml.training.checkpoint import State
from dfml.training.device import computing_in, require_memory
from dfml.training.distillation_buffer import DistillationBuffer
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.zoo.members import teacher_logits
from dfml.zoo.zoo import Zoo

# Fraction of the optimiser steps before the episodic phase (of all steps if there is none) in which the learning rate
# rises linearly, from 1 % of the highest one; in the remaining ones it falls to zero along a half cosine.
_WARM_UP = 0.1
# Learning rate at the beginning of the episodic phase, as a fraction of the highest one; it falls to zero along a half
# cosine by the end of that phase.
_EPISODIC_RATE = 0.2


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
        # For every member, the class of the zoo that each of its outputs stands for.
        self.classes_of_member = [torch.tensor(classes, device=device) for classes in zoo.classes.of_member]
        # For every member, the columns of its outputs among the student's logits, which are those of all members.
        self.columns_of_member = list(torch.split(torch.arange(sum(outputs), device=device), outputs))
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
        self._members = describe_members(zoo)
        self.updates = 0  # optimiser steps of the student so far, over all meta-iterations
        self.agreement = CrossMemberAgreement(zoo)
        self._messages: list[str] = []
        self.source = ImageSource(
            config.inversion,
            zoo,
            self.student.preprocessing,
            patience=config.patience,
            rows=self.columns_of_member,
            seed=config.seed,
            device=device,
        )
        per_iteration = config.members_per_step * self.source.most_images(config.images_per_class) * (1 + config.mixed)
        capacity, size = min(config.memory, config.iterations * per_iteration), self.student.preprocessing.size
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
            # Before its first update the student's predictions are random: disagreement with them does not show what
            # the student has to learn.
            student=self._student_logits if self.updates else None,
            # If an inversion fails while these are not finite, the run ends; otherwise the member is excluded.
            learner_weights=self.student.network.parameters(),
        )
        inverted = time.perf_counter()
        self._query_teachers(recovered, iteration)
        queried = time.perf_counter()
        metrics = {**self.source.last_metrics, **self.source.failures.confirmation_metrics(), **self._distil(iteration)}
        if iteration == self.iterations:
            self._messages += [*self.source.failures.describe_unrecognised(), *self.agreement.warnings()]
        return metrics | {
            "recovery_seconds": inverted - start,
            "query_seconds": queried - inverted,
            "distillation_seconds": time.perf_counter() - queried,
        }

    def _student_logits(self, images: Tensor, columns: Tensor | None) -> Tensor:
        """Predict the student's logits for images in [0, 1] of any size; gradients reach the images.

        Args:
            images: Floats, `(images, 3, height, width)`; another size is resized and cropped to the centre.
            columns: Indices among the outputs of all members, such as those of one member; None: all outputs.
        """
        logits = self.student.logits(resize_and_crop(images, self.student.preprocessing.size))
        return logits if columns is None else logits[:, columns]

    @torch.no_grad()
    def _query_teachers(self, recovered: Mapping[int, RecoveredImages], iteration: int) -> None:
        """Add recovered and mixed images to the buffer, with the members' log-probabilities.

        Teachers are the members that the images were recovered from and further random ones, `config.teachers` in all
        (None: all members); each predicts all images. The log-probabilities of the other members are NaN. `recovered`:
        index of a member -> the images recovered from it.
        """
        if not recovered:
            return
        originals = to_bytes(torch.cat([each.images for each in recovered.values()]))
        images = to_float(torch.cat([originals, *self._mix(originals, iteration)]))
        predictions = images.new_full((len(images), self.buffer.log_probabilities.shape[1]), math.nan)
        others = torch.randperm(len(self.zoo), generator=seeds.generator(self.config.seed, "teachers", iteration))
        count = max(self.config.teachers or len(self.zoo), len(recovered))
        unbroken = (index for index in others.tolist() if index not in self.source.broken)
        usable = (index for index in unbroken if self.source.can_query(index, len(images)))
        teachers = list(dict.fromkeys([*recovered, *usable]))[:count]
        for index in teachers:
            member = self.zoo[index]
            with computing_in(self.config.precision, self.device):
                logits = teacher_logits(member, images)
            predictions[:, self.columns_of_member[index]] = logits.to(predictions.dtype).log_softmax(dim=1)
        self._store(recovered, to_bytes(images), predictions, teachers)

    def _store(
        self, recovered: Mapping[int, RecoveredImages], images: Tensor, predictions: Tensor, teachers: list[int]
    ) -> None:
        """Add images and predictions to the buffer; only images that their own member recognises have a class.

        A member that the others contradict is excluded, and the images that were recovered from it lose their class.
        """
        start, classes, members = 0, [], []
        for index, (_, labels) in recovered.items():
            scores = {each: predictions[start : start + len(labels), self.columns_of_member[each]] for each in teachers}
            confirmed = self.source.confirmed(index, labels, scores[index])
            classes.append(torch.where(confirmed, self.classes_of_member[index][labels], -1))
            members.append(torch.full_like(labels, index))
            self.agreement.add(index, labels, scores)
            start += len(labels)
        mixed = torch.full((len(images) - start,), -1, device=self.device)
        self.buffer.add(images, predictions, torch.cat([*classes, mixed]), torch.cat([*members, mixed]))
        for index, reason in self.agreement.contradicted().items():
            self.source.exclude(index, reason)
            self.buffer.forget_classes(index)

    def _mix(self, images: Tensor, iteration: int) -> list[Tensor]:
        """`config.mixed` batches of the images mixed with earlier ones of the buffer; none while it is empty."""
        mixed = []
        for turn in range(self.config.mixed if len(self.buffer) else 0):
            generator = seeds.generator(self.config.seed, "mix", iteration, turn)
            partners = self.buffer.images[self.buffer.sample_slots(len(images), generator)]
            mixed.append(cut_and_mix(images, partners, generator))
        return mixed

    def _distil(self, iteration: int) -> dict[str, float]:
        """Take this meta-iteration's optimiser steps of the student.

        Returns:
            Mean over the steps of each loss, computed before the step; without losses that no step had.
        """
        config, student = self.config, self.student
        losses: dict[str, list[Tensor]] = {"distillation_loss": [], "episodic_loss": []}
        slots_by_class = self.buffer.slots_by_class(config.episode_shot + config.episode_query)
        # Layers with random numbers (dropout, stochastic depth) use torch's global generators.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seeds.integer(config.seed, "layers", iteration))
            student.network.train()
            for turn in range(self._updates_until(iteration) - self.updates if len(self.buffer) else 0):
                generator = seeds.generator(config.seed, "batch", iteration, turn)
                slots, way = self._sample_batch(slots_by_class if self._progress()[1] else [], generator)
                images, predictions = self.buffer.get(slots)
                if config.mirror and bool(torch.randint(2, (), generator=generator)):
                    images = images.flip(-1)
                with computing_in(config.precision, self.device):
                    logits, embeddings = student.logits_and_embeddings(images)
                loss = student.member_outputs.divergence(predictions, logits, config.temperature)
                losses["distillation_loss"].append(loss.detach())
                if way:
                    episodic_loss = episode_loss(embeddings, way, config.episode_shot, config.episode_query)
                    loss = loss + config.episodic * episodic_loss
                    losses["episodic_loss"].append(episodic_loss.detach())
                self.optimiser.descend(loss, self._rate())
                self.updates += 1
            student.network.eval()
        return {name: torch.stack(values).mean().item() for name, values in losses.items() if values}

    def _sample_batch(self, slots_by_class: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, int]:
        """Sample a batch of images, which may begin with an episode.

        Args:
            slots_by_class: For each class of the zoo with enough images for an episode, the slots of the buffer that
                hold its images; empty for no episode.
            generator: Random generator on the CPU.

        Returns:
            Slots of the buffer: those of the episode's support images, class by class, of its query images, class by
            class, and of other images; and the number of classes of the episode, 0 if there are not two for it.
        """
        config = self.config
        shot, query = config.episode_shot, config.episode_query
        way = min(config.episode_way, len(slots_by_class), config.batch // (shot + query))
        if way < 2:
            return self.buffer.sample_slots(config.batch, generator), 0
        counts = torch.tensor([len(slots) for slots in slots_by_class])
        classes, *parts = sample_episode_indices(counts, way, shot, query, generator)
        of_class = [slots_by_class[label] for label in classes.tolist()]
        episode = [
            slots[chosen.to(slots.device)] for part in parts for slots, chosen in zip(of_class, part, strict=True)
        ]
        others = self.buffer.sample_slots(config.batch - way * (shot + query), generator)
        return torch.cat([*episode, others]), way

    def _updates_until(self, iteration: int) -> int:
        """Number of optimiser steps of the student up to the end of a meta-iteration.

        It is `iterations * student_steps * (iteration / iterations) ** 2`, rounded.
        """
        total = self.config.iterations * self.config.student_steps
        return round(total * (iteration / self.config.iterations) ** 2)

    def _progress(self) -> tuple[float, bool]:
        """Finished fraction of the current phase's optimiser steps, and whether it is the episodic phase.

        The episodic phase consists of the last `episodic_share` of all optimiser steps; without a weight (`episodic`)
        there is none.
        """
        share = self.config.episodic_share if self.config.episodic else 0.0
        done = self.updates / (self.config.iterations * self.config.student_steps)
        return ((done - 1.0 + share) / share, True) if done > 1.0 - share else (done / (1.0 - share), False)

    def _rate(self) -> float:
        """Learning rate of the student's next optimiser step, as a fraction of the highest one."""
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
        return describe_student_metrics()

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
        # A run with other settings may load the checkpoint into a buffer of another capacity.
        any_length = frozenset(f"buffer.{name}" for name in DistillationBuffer.ROWS)
        values |= {"members": self._members, "preprocessing": self.student.preprocessing.as_dict()}
        return State(tensors, values, any_length=any_length)

    def convert_state(self, state: State) -> State:
        """See `TrainingRun.convert_state`: a run continues with further members, `dfml.methods.zoo_student.growing`."""
        stored = state.values.get("members", self._members)
        if stored == self._members:
            return state
        return grown_state(state, stored, self.zoo, self.state_dict(), head_names(self.student, self.optimiser))

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        self.source.load_state_dict(select_prefix(state.tensors, "engine."), state.values)
        self.buffer.load_state_dict(select_prefix(state.tensors, "buffer."))
        self.agreement.load_state_dict(select_prefix(state.tensors, "agreement."))
        self.student.network.load_state_dict(select_prefix(state.tensors, "student."))
        if "preprocessing" in state.values:
            # That of all members together; further members must not change what the student sees.
            self.student.preprocessing = read_preprocessing(state.values["preprocessing"])
        self.updates = int(state.tensors["updates"])
        self.optimiser.load_state_dict("optimiser", state.tensors)
