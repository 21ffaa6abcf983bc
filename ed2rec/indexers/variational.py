"""HVQAE: the hierarchical variational quantisation auto-encoder, the paper's dynamic index generator (§2.2.2, App. G).

    X_1 = Enc(X_T);   for m = 1..M:   omega_m ~ Q_m(X_m),   c_m = C_m[omega_m],   X_(m+1) = X_m - c_m      (Eq. 3-5)

One class, used twice: users and items have their own parameters. Tables, prompts, labels and evaluation use the mode
(`sample=False`), which depends on nothing but the embedding; sampling is for losses and the soft route into the LLM.
Shape letters: B batch, E text-embedding width, D code width, M levels, N_m codes of level m.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ed2rec.errors import ConfigError
from ed2rec.indexers import vmf
from ed2rec.indexers.codebook import Distance, Latent, VariationalCodebook

LOSS_WEIGHTS = {"recon": 1.0, "codebook": 1.0, "commitment": 0.25, "kl": 0.0, "diversity": 0.0}


class Quantised(NamedTuple):
    """What the generator says about a batch. Equation symbols in brackets."""

    codes: Tensor  # (B, M) int64 [omega_m]
    inputs: Tensor  # (B, M, D) [X_m]
    codewords: Tensor  # (B, M, D) [c_m]
    logits: list[Tensor]  # M x (B, N_m), before softmax [Eq. 4]
    straight_through: list[Tensor]  # M x (B, N_m): forward one-hot of the code, backward the softmax
    reconstruction: Tensor  # (B, E)
    kappa: Tensor  # (B, M), inf without a latent [kappa_m]


class VariationalQuantiser(nn.Module):
    """Embeddings (B, E) to codes (B, M), differentiably. Computes in float32, also under autocast.

    hidden     widths between E and D; the decoder mirrors them. () is one linear map, started from the principal
               components, and keeps the geometry of the embeddings; App. G is (2048, 1024, 512, 256, 128)
    sizes      codes per level; (256,) * 4 in the paper, (4, 32, 256, 256) in Fig. 4
    latent, distance   see VariationalCodebook
    estimator  gradient of the reconstruction: "copy" gives it to the encoder unchanged (van den Oord et al. 2017),
               "softmax" sends it through the assignment, Eq. 5 read literally
    temperature  of the softmax over codes (attribute, may be annealed); 1 is Eq. 4

    Embeddings are centred and scaled by buffers that `initialise` sets, so losses are shares of the data's variance.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        input_width: int,
        hidden: Sequence[int] = (),
        code_width: int = 64,
        sizes: Sequence[int] = (256, 256, 256, 256),
        latent: Latent = "vmf",
        distance: Distance = "euclidean",
        estimator: str = "copy",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"index sizes are {tuple(sizes)}; give at least one level of at least one code")
        for name, value, allowed in (
            ("latent", latent, ("vmf", "gaussian", "none")),
            ("distance", distance, ("euclidean", "cosine")),
            ("estimator", estimator, ("copy", "softmax")),
        ):
            if value not in allowed:
                raise ConfigError(f"indexer {name} is {value!r}; choose one of {', '.join(allowed)}")
        self.sizes, self.latent, self.estimator, self.temperature = tuple(sizes), latent, estimator, temperature
        widths = [input_width, *hidden, code_width]
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.levels = nn.ModuleList(VariationalCodebook(size, code_width, latent, distance) for size in sizes)
        self.register_buffer("centre", torch.zeros(input_width))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x_BE: Tensor, codes_BM: Tensor | None = None, sample: bool = True) -> Quantised:
        """Quantise; with `codes_BM` (from the table) follow those codes and take only the soft part from the logits.

        sample: draw latents (Eq. 3) and, without given codes, the codes too (Eq. 4, by Gumbel noise).
        """
        with torch.autocast(x_BE.device.type, enabled=False):
            first = x = self.encode(x_BE)
            inputs, codewords, logits, through, kappas, codes = [], [], [], [], [], []
            for m, level in enumerate(self._levels()):
                scored = level(x, sample)
                code, weights = self._choose(scored.logits, None if codes_BM is None else codes_BM[:, m], sample)
                codeword = level.codewords[code]
                inputs.append(x)
                codewords.append(codeword)
                logits.append(scored.logits)
                through.append(weights)
                kappas.append(scored.kappa)
                codes.append(code)
                x = x - codeword.detach()  # a level answers for its own input, not for the levels before it
            if self.estimator == "softmax":
                total = sum(y @ level.codewords for y, level in zip(through, self._levels(), strict=True))
            else:
                total = first + (torch.stack(codewords).sum(0) - first).detach()
            reconstruction = self.centre + self.scale * self.decoder(total)
            return Quantised(
                torch.stack(codes, 1), torch.stack(inputs, 1), torch.stack(codewords, 1),
                logits, through, reconstruction, torch.stack(kappas, 1),
            )  # fmt: skip

    def encode(self, x_BE: Tensor) -> Tensor:
        """X_1, (B, D)."""
        return self.encoder((x_BE.float() - self.centre) / self.scale)

    def losses(self, quantised: Quantised, x_BE: Tensor) -> dict[str, Tensor]:
        """Named losses, unweighted (see LOSS_WEIGHTS); means over the batch and the levels.

        recon       ||X^ - X_T||^2 per dimension, in units of the data's variance: 1 is no better than the mean
        codebook    ||sg X_m - c_m||^2      moves the codewords
        commitment  ||X_m - sg c_m||^2      moves the encoder
        kl          KL of the latent from the uniform (vmf) or N(0, 1/D) (gaussian) distribution, in nats
        diversity   log N_m - H(mean over the batch of p_m), 0 when all codes are used alike
        """
        inputs, codewords = quantised.inputs, quantised.codewords
        return {
            "recon": ((quantised.reconstruction - x_BE.float()) / self.scale).square().mean(),
            "codebook": F.mse_loss(codewords, inputs.detach()),
            "commitment": F.mse_loss(inputs, codewords.detach()),
            "kl": self._kl(quantised.kappa, inputs.shape[-1]),
            "diversity": torch.stack([_imbalance(logits / self.temperature) for logits in quantised.logits]).mean(),
        }

    @torch.no_grad()
    def codes(self, x_BE: Tensor, chunk: int = 8192) -> Tensor:
        """(B, E) -> (B, M) int64, the mode path; no gradient."""
        return torch.cat([self.walk(part)[0] for part in x_BE.split(chunk)])

    @torch.no_grad()
    def walk(
        self, x_BE: Tensor, keep_BM: Tensor | None = None, margins: Sequence[float] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """See Indexer.walk."""
        codes, logits = [], []
        with torch.autocast(x_BE.device.type, enabled=False):
            x = self.encode(x_BE)
            for m, level in enumerate(self._levels()):
                score = level(x, sample=False).logits
                best, code = score.max(-1)
                if keep_BM is not None:
                    kept = keep_BM[:, m]
                    code = torch.where(best - score.gather(-1, kept[:, None]).squeeze(-1) > margins[m], code, kept)
                codes.append(code)
                logits.append(score)
                x = x - level.codewords[code]
        return torch.stack(codes, 1), logits

    @torch.no_grad()
    def initialise(self, embeddings: Tensor, seed: int = 0) -> None:
        """Centre, scale, linear maps from the principal components, then k-means level by level on the residuals.

        embeddings: (K, E), all entities. A hidden encoder keeps its random start and gets only the k-means part.
        """
        x = embeddings.float()
        self.centre.copy_(x.mean(0))
        deviation = (x - self.centre).square().mean().sqrt()
        self.scale.copy_(deviation if deviation > 0 else torch.ones(()))
        if len(self.encoder) == 1:
            self._principal_start((x - self.centre) / self.scale)
        rest = torch.cat([self.encode(part) for part in x.split(8192)])
        for m, level in enumerate(self._levels()):
            level.initialise(rest, seed + m)
            rest = rest - level.codewords[level(rest, sample=False).logits.argmax(-1)]

    def observe(self, codes_BM: Tensor, decay: float = 0.99) -> None:
        """Keep count of which codes are in use, for `restart_dead`. One batch counts 1 - decay."""
        for level, codes in zip(self._levels(), codes_BM.T, strict=True):
            level.observe(codes, decay)

    def restart_dead(self, quantised: Quantised, threshold: float = 0.03) -> list[tuple[int, int]]:
        """Put codes with less than `threshold` of their fair share onto current residuals; returns (level, code) pairs.

        The caller resets what else belongs to these codes: optimiser moments, and the rows of their LLM tokens,
        which would otherwise keep an obsolete meaning. A code that `observe` sees in the table is never restarted.
        """
        residuals = zip(self._levels(), quantised.inputs.detach().unbind(1), strict=True)
        return [(m, code) for m, (level, x) in enumerate(residuals) for code in level.restart_dead(x, threshold)]

    def _levels(self) -> list[VariationalCodebook]:
        return cast(list[VariationalCodebook], list(self.levels))

    def _choose(self, logits: Tensor, given: Tensor | None, sample: bool) -> tuple[Tensor, Tensor]:
        """The code and its weights y = hard - sg(p) + p, whose value is exactly the one-hot of the code."""
        if given is not None:
            code = given.long()
        else:
            if sample:  # Gumbel noise -log(Exp(1)) makes the argmax a draw from the softmax
                logits = logits - self.temperature * torch.empty_like(logits).exponential_().log()
            code = logits.argmax(-1)
        soft = (logits / self.temperature).softmax(-1)
        hard = F.one_hot(code, logits.shape[-1]).to(soft.dtype)
        return code, hard + (soft - soft.detach())

    def _kl(self, kappa: Tensor, width: int) -> Tensor:
        if self.latent == "vmf":
            return vmf.kl_to_uniform(kappa, width).mean()
        if self.latent == "gaussian":  # |mu| = 1; kappa is the mean over the dimensions
            return (width / 2 * (width / kappa - (width / kappa).log())).mean()
        return kappa.new_zeros(())

    def _principal_start(self, x_KE: Tensor) -> None:
        """Encoder = the first D principal directions, decoder = its transpose; unused rows stay zero."""
        _, directions = torch.linalg.eigh(x_KE.double().T @ x_KE.double())
        encoder, decoder = cast(nn.Linear, self.encoder[0]), cast(nn.Linear, self.decoder[0])
        weight = torch.zeros_like(encoder.weight)
        top = directions.flip(-1).T[: len(weight)]
        weight[: len(top)] = top.to(weight.dtype)
        encoder.weight.copy_(weight)
        decoder.weight.copy_(weight.T)
        encoder.bias.zero_()
        decoder.bias.zero_()


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them and none after the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _imbalance(logits_BN: Tensor) -> Tensor:
    mean = logits_BN.softmax(-1).mean(0)
    return (mean * (mean * len(mean)).clamp_min(1e-12).log()).sum()
