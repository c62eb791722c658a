"""Stages `opening` and `pixels`: a network of its own for the first chunk of a shot (`PackFacts.opening_network`).

Where nothing is untold, what a video begins with is the truth of its prompt. A chunk alone costs a fraction of a clip
under teacher forcing, so what things look like is learnt here; the student then learns how things go on from what was
there. One network that learns both, one after the other, never comes to look back (docs/storybook.md). Emu Video (arXiv
2311.10709) factorises text to video so.

`opening` learns latents. `pixels` then learns what the decoder shows of them, which minds some errors of latents and
not others: a loss in the decoder's own terms, as latent perceptual losses are (arXiv 2411.04873). Nothing has to be
encoded for it, so every step draws first chunks anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causvid_cli.codec.pixel import PixelCodec
from causvid_cli.prompt.story import StoryText
from causvid_cli.sampling.schedule import add_noise, x0_from
from causvid_cli.storybook import SQUARE, Frame, Words
from causvid_cli.train.autoencoder import SPRITE_PIXEL_WEIGHT
from causvid_cli.train.config import Optimisation, RolloutFacts
from causvid_cli.train.dataset import SPRITE_CELL_WEIGHT, THING_WEIGHT, LatentClips
from causvid_cli.train.denoiser import Denoiser
from causvid_cli.train.layout import first_steps
from causvid_cli.train.losses import weighted_mean, x0_regression
from causvid_cli.train.parallel import my_draw, my_share, my_weight
from causvid_cli.train.story_clips import opening_stories, render_clips
from causvid_cli.train.teacher_stage import standard_normal
from causvid_cli.train.trainer import StageSetting, Trainer

LATENTS_SHARE = 0.3
"""What the error of latents weighs beside that of pixels: latents stay such as the codec encodes, and scenes all round,
which only they show, are not forgotten."""
PICTURES = 2
"""Pictures of each chunk that are decoded: they differ by a step, and decoding is what takes time."""
SQUARE_SHARE = 0.5
"""Share of steps whose drawn chunks are square, where there are other shapes."""
PIXEL_WEIGHTS = torch.tensor([1.0, SPRITE_PIXEL_WEIGHT, THING_WEIGHT * SPRITE_PIXEL_WEIGHT])
"""What a pixel weighs, by what is seen in it (`Clips.mask`); of sprites and scenes as the codec has learnt them."""


@dataclass(frozen=True, slots=True)
class FirstChunks:
    """What a network for first chunks learns from.

    openings: clips as long as a chunk, each from the beginning of its video. turns: as of `story_clips.opening_weight`.
    """

    denoiser: Denoiser
    openings: LatentClips
    facts: RolloutFacts
    turns: bool
    device: torch.device

    def latents_loss(self, rng: np.random.Generator, count: int) -> Tensor:
        """Return the error of `count` prepared chunks at the noise levels of their steps."""
        levels = torch.tensor([step.sigma for step in first_steps(self.facts)])
        batch = self.openings.batch(rng, count, device=self.device, sprite_weight=SPRITE_CELL_WEIGHT)
        weight, batch = my_weight(batch.weight), my_share(batch)
        sigma = levels[(my_draw(rng.random, len(batch.x0)) * len(levels)).long()].to(self.device)
        x_t = add_noise(batch.x0, standard_normal(rng, batch.x0), sigma)
        network = self.denoiser.network
        output = network.forward_whole(x_t, 1000 * sigma, self.denoiser.prompt(batch.rows))
        return x0_regression(network.prediction, x_t, output, batch.x0, sigma, weight)

    def pixels_loss(
        self,
        rng: np.random.Generator,
        count: int,
        codec: PixelCodec,
        words: Words,
        shapes: Sequence[Frame] = (),
    ) -> Tensor:
        """Return the cross-entropy of what the codec shows of `count` chunks, made in one step, as they are drawn.

        words: of the stories that they tell. shapes: of frames, besides square ones; of larger frames there are fewer.
        """
        network, text, facts = self.denoiser.network, self.denoiser.text, self.facts
        assert isinstance(text, StoryText), "first chunks that nobody can draw"
        is_square = not shapes or rng.random() < SQUARE_SHARE
        size = SQUARE if is_square else shapes[int(rng.integers(len(shapes)))]
        count = max(1, count * SQUARE.height * SQUARE.width // (size.height * size.width))
        stories = opening_stories(rng, count, words, turns=self.turns)
        drawn = render_clips(stories, rng, frames=facts.chunk_frames * codec.stack, size=size)
        each = rng.permuted(np.tile(np.arange(drawn.indices.shape[1]), (count, 1)), axis=1)[:, :PICTURES]
        pick = torch.arange(count)[:, None], torch.from_numpy(each)
        weight = my_weight(PIXEL_WEIGHTS[drawn.mask[pick].long()]).to(self.device)
        indices, rows = my_share(drawn.indices[pick]).to(self.device), my_share(text.rows(drawn.stories))
        cells_of = (side // codec.facts.spatial_factor for side in indices.shape[-2:])
        shape = len(rows), codec.facts.latent_channels, facts.chunk_frames, *cells_of
        x_t, step = standard_normal(rng, torch.empty(shape, device=self.device)), first_steps(facts)[0]
        sigma = torch.full((len(rows),), step.sigma, device=self.device)
        output = network.forward_whole(x_t, 1000 * sigma, self.denoiser.prompt(rows))
        cells = codec.unstack_cells(x0_from(network.prediction, x_t, output, sigma))
        mine = torch.arange(len(rows))[:, None], my_share(pick[1])
        scores = codec.decode_frames(cells[mine].flatten(0, 1))
        entropy = F.cross_entropy(scores.float(), indices.flatten(0, 1).long(), reduction="none")
        return weighted_mean(entropy, weight.flatten(0, 1))


def train_opening(folder: Path, chunks: FirstChunks, plan: Optimisation, setting: StageSetting) -> Trainer:
    """Train on the latents of first chunks, from the denoiser's weights; return the trainer."""
    trainer = Trainer(folder, chunks.denoiser, plan, setting)
    trainer.run(lambda step, rng: {"loss": chunks.latents_loss(rng, plan.batch)})
    return trainer


def train_pixels(
    folder: Path,
    chunks: FirstChunks,
    codec: PixelCodec,
    words: Words,
    plan: Optimisation,
    setting: StageSetting,
    *,
    shapes: Sequence[Frame] = (),
) -> Trainer:
    """Train on what the codec, which stays as it is, shows of first chunks; return the trainer.

    Half of a batch is drawn for it, of stories in these words and in frames of these shapes; of the other half latents
    are learnt.
    """

    def loss(step: int, rng: np.random.Generator) -> Mapping[str, Tensor]:
        of_latents, of_pixels = rng.spawn(2)  # what one draws, in however many processes, is not the other's affair
        latents = chunks.latents_loss(of_latents, plan.batch // 2)
        pixels = chunks.pixels_loss(of_pixels, plan.batch - plan.batch // 2, codec, words, shapes)
        return {"loss": pixels + LATENTS_SHARE * latents, "pixels": pixels, "latents": latents}

    trainer = Trainer(folder, chunks.denoiser, plan, setting)
    trainer.run(loss)
    return trainer
