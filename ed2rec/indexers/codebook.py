"""One level of the index generator: the variational quantiser Q_m and its codebook C_m (Eq. 3-4).

Paper name -> ours: X_m `x_BD`, mu_m `direction`, kappa_m `kappa`, X_omega `latent`, C_m `codewords`, D(.,.) `distance`.
Shape letters: B batch, D code width, N codes.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from ed2rec.indexers import vmf

Latent = Literal["vmf", "gaussian", "none"]
Distance = Literal["euclidean", "cosine"]

KAPPA_START, KAPPA_RANGE = 200.0, (32.0, 2000.0)
SCALE_START, SCALE_RANGE = 20.0, (5.0, 100.0)
NORM_FLOOR = 1e-4  # a residual of (almost) zero length has no direction; below this it has no steep gradient either
KMEANS_ROWS = 64  # rows per centroid; more make k-means slower and not better


class Scored(NamedTuple):
    logits: Tensor  # (B, N)
    direction: Tensor  # (B, D), unit length where |x| > NORM_FLOOR
    kappa: Tensor  # (B,), inf without a latent


class VariationalCodebook(nn.Module):
    """[mu, kappa] = Q(x);  X_omega ~ vMF(mu, kappa);  logits = kappa_q * similarity(X_omega, C).

    euclidean  logits_n = -kappa_q ||  ||x|| X_omega - c_n ||^2 / (2 mean ||c||^2)     up to a constant of the row
    cosine     logits_n =  kappa_q cos(X_omega, c_n)

    Both are the same where all codewords have one length. mu = normalise(W x) with W = 1 at the start; kappa =
    exp(w.x/||x|| + b), clamped to [32, 2000], 200 at the start (an exponential, because a softplus would need
    10^5 steps of AdamW to move that far); kappa_q is learned, clamped to [5, 100], 20 at the start.
    latent: "vmf" (Eq. 3); "gaussian" (App. J) N(mu, diag 1/kappa_d); "none" is X_omega = x/||x||, nothing to sample.
    """

    usage: Tensor

    def __init__(self, size: int, width: int, latent: Latent = "vmf", distance: Distance = "euclidean") -> None:
        super().__init__()
        self.latent, self.distance = latent, distance
        self.codewords = nn.Parameter(torch.randn(size, width) / math.sqrt(width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE_START)))
        self.register_buffer("usage", torch.ones(size))  # running share of each code, 1 = its fair share 1/N
        if latent != "none":
            self.mean = nn.Linear(width, width, bias=False)
            self.concentration = nn.Linear(width, 1 if latent == "vmf" else width)
            nn.init.eye_(self.mean.weight)
            nn.init.zeros_(self.concentration.weight)
            nn.init.constant_(self.concentration.bias, math.log(KAPPA_START))

    def forward(self, x_BD: Tensor, sample: bool) -> Scored:
        """Mode (X_omega = mu) unless `sample`."""
        direction = F.normalize(x_BD, dim=-1, eps=NORM_FLOOR)
        if self.latent == "none":
            return Scored(self._logits(x_BD, direction), direction, direction.new_full(x_BD.shape[:1], math.inf))
        kappa_BX = self.concentration(direction).clamp(*map(math.log, KAPPA_RANGE)).exp()
        direction = F.normalize(self.mean(x_BD), dim=-1, eps=NORM_FLOOR)
        latent = direction
        if sample and self.latent == "vmf":
            latent = vmf.sample(direction, kappa_BX[:, 0])
        elif sample:
            latent = direction + torch.randn_like(direction) / kappa_BX.sqrt()
        return Scored(self._logits(x_BD, latent), direction, kappa_BX.mean(-1))

    def _logits(self, x_BD: Tensor, latent_BD: Tensor) -> Tensor:
        scale = self.log_scale.clamp(*map(math.log, SCALE_RANGE)).exp()
        if self.distance == "cosine":
            return scale * latent_BD @ F.normalize(self.codewords, dim=-1, eps=NORM_FLOOR).T
        half_square = self.codewords.square().sum(-1) / 2
        latent_BD = latent_BD * x_BD.norm(dim=-1, keepdim=True)
        # The scale must not depend on the batch: a table has to be the same whoever is indexed together.
        return scale * (latent_BD @ self.codewords.T - half_square) / (2 * half_square.mean().detach() + 1e-12)

    @torch.no_grad()
    def initialise(self, x_KD: Tensor, seed: int) -> None:
        """Codewords = k-means centroids of the rows; with fewer distinct rows than codes, rows repeated with noise."""
        rows = x_KD.double().cpu().numpy()
        random = np.random.default_rng(seed)
        size = len(self.codewords)
        if len(rows) > KMEANS_ROWS * size:
            rows = rows[np.sort(random.choice(len(rows), KMEANS_ROWS * size, replace=False))]
        distinct = np.unique(rows.astype(np.float32), axis=0)
        if len(distinct) <= size:
            repeated = distinct[random.integers(len(distinct), size=size - len(distinct))]
            noise = random.standard_normal(repeated.shape) * (0.01 * rows.std() + 1e-6)
            centroids = np.concatenate([distinct, repeated + noise])
        else:
            restarts = 4 if len(rows) * size < 100_000 else 1
            centroids = KMeans(size, n_init=restarts, max_iter=100, random_state=seed).fit(rows).cluster_centers_
        self.codewords.copy_(torch.as_tensor(centroids))
        self.usage.fill_(1)

    @torch.no_grad()
    def observe(self, codes_B: Tensor, decay: float) -> None:
        """Move the running usage towards this batch's; one batch counts 1 - decay."""
        size = len(self.codewords)
        share = torch.bincount(codes_B, minlength=size) * (size / max(len(codes_B), 1))
        self.usage.lerp_(share.to(self.usage.dtype), 1 - decay)

    @torch.no_grad()
    def restart_dead(self, x_BD: Tensor, threshold: float) -> list[int]:
        """Put codes used less than `threshold` of their fair share onto random rows of x (+ noise); returns them."""
        dead = torch.nonzero(self.usage < threshold).flatten()
        if len(dead) == 0:
            return []
        rows = x_BD[torch.randint(len(x_BD), (len(dead),), device=x_BD.device)]
        self.codewords[dead] = rows + 0.01 * x_BD.std() * torch.randn_like(rows)
        self.usage[dead] = 1.0
        return dead.tolist()
