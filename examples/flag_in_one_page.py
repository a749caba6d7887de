"""FLAG on one page: two synthetic sections, spot graphs, training, sampling, scores, a picture.

    .venv/bin/python examples/flag_in_one_page.py [PICTURE.png]

It trains a tiny network on one section and predicts the next one from its H&E image, within a
minute on the CPU. It shows how the method works, not how well: docs/results.md says that.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch

from flag_st.diffusion.precond import CovarianceEdm
from flag_st.diffusion.samplers import dpmpp_2m
from flag_st.diffusion.schedules import karras, log_normal
from flag_st.encoders.texture import describe
from flag_st.metrics.base import Case
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.ssc import Ssc
from flag_st.nets.flag import FlagNet
from flag_st.nets.gene_decoder import Size
from flag_st.nets.graph import EDGES, collate, spot_graph
from flag_st.nets.graph_transformer import alignment_loss
from flag_st.synthetic.expression import draw_counts, truth
from flag_st.synthetic.histology import PIXEL_UM, paint
from flag_st.synthetic.tissue import Design, Section

GENES, VECTOR, STEPS = 40, 8, 120
torch.set_num_threads(1)  # tensors are so small here that threads would only wait for each other
generator = torch.manual_seed(0)

# 1. Two serial sections of one donor: spot centres, image features and log counts of each.
design, sections = Design(rows=18, columns=18), []
for number in (0, 1):
    section, known = Section(design, 0, number), truth(design, 0, number)
    image, features, half = paint(section), [], round(56 / PIXEL_UM)
    for x, y in np.round(known.centre / PIXEL_UM).astype(int):  # patches of 112 µm, enlarged twice
        patch = image[y - half : y + half, x - half : x + half].repeat(2, 0).repeat(2, 1)
        features.append(describe(patch))  # (203,)
    sections.append((known.centre, np.stack(features), np.log1p(draw_counts(section, known))))

# 2. Spot graphs, with features and the most variable genes as z-scores of the first section.
chosen, tiles = np.argsort(-sections[0][2].var(0))[:GENES], []
first_u, first_y = sections[0][1], sections[0][2][:, chosen]
for position, features, expression in sections:
    u = (features - first_u.mean(0)) / (first_u.std(0) + 1e-6)  # (N, 203)
    y = (expression[:, chosen] - first_y.mean(0)) / first_y.std(0)  # (N, G)
    graph = spot_graph(position, u.clip(-6, 6), y, neighbours=8, far=4)
    tiles.append(collate([graph], EDGES["both"]))  # a batch of one graph
train, test = tiles

# 3. Gene vectors to align to: here, each gene's loadings on the main axes of co-expression.
values, axes = torch.linalg.eigh(torch.corrcoef(train.truth[0].T))  # (G,), (G, G)
vectors = axes[:, -VECTOR:] * values[-VECTOR:].sqrt()  # (G, K)
expressed = torch.as_tensor(first_y > 0)  # (N, G)

# 4. The network: (noisy expression, σ, tile) → clean expression.
precond = CovarianceEdm(GENES)  # EDM along the genes' principal components
precond.fit(train.truth[0])
sizes = {"size": Size(32, 2, 4), "backbone": Size(64, 2, 4), "align_at": (1,), "project": 64}
net = FlagNet(GENES, first_u.shape[1], VECTOR, channels=4, precond=precond, dropout=0.1, **sizes)

# 5. Training: denoise at random levels, and pull the tokens of a middle block to the gene vectors.
optimizer, clean = torch.optim.AdamW(net.parameters(), lr=2e-3), train.truth  # (1, N, G)
for step in range(STEPS):
    sigma = log_normal((1, 1, 1), 0.0, 1.5, generator)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)  # (1, N, G)
    order = torch.randperm(clean.shape[1], generator=generator)
    spots = order[:32]  # whose gene tokens are trained in this step
    found = net.denoise(noisy, sigma, train, spots)
    loss = precond.loss(found.clean, clean[0, spots], sigma[0]).mean()
    loss = loss + 0.5 * precond.loss(found.readout, clean, sigma).mean()  # the graph's own estimate
    loss = loss + 0.5 * alignment_loss(net.projector(found.tokens[0]), vectors, expressed[spots])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1}: loss {loss.item():.3f}", end="\n" if step % 40 == 39 else "\r")

# 6. Sampling: a draw follows the flow from noise; the point estimate is one look at pure noise.
net.eval()
with torch.inference_mode():
    start = 80 * torch.randn(test.truth.shape, generator=generator)  # (1, N, G)
    draw = dpmpp_2m(lambda x, sigma: net(x, sigma, test), start, karras(12, 0.02, 80.0))[0]
    point = net(start, torch.full((1, 1, 1), 80.0), test)[0]  # (N, G)

# 7. Scores: accuracy (PCC), gene–gene structure (GSC) and spatial structure (SSC); one picture.
measured, names = test.truth[0].double().numpy(), tuple(known.genes[known.measured][chosen])
maps = {"measured": test.truth[0], "point estimate": point, "one draw": draw}
figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
gene = (clean[0] * clean[0][train.near[0]].mean(1)).mean(0).argmax()  # which neighbours share most
for panel, (name, values) in zip(panels, maps.items(), strict=True):
    case = Case(measured, values.double().numpy(), position, names)
    pcc = np.mean([np.corrcoef(measured[:, g], values[:, g])[0, 1] for g in range(GENES)])
    print(f"{name:14} PCC {pcc:.2f}, GSC {Gsc()(case)['gsc']:.2f}, SSC {Ssc()(case)['ssc']:.2f}")
    panel.scatter(*position.T, c=values[:, gene], s=30, vmin=-2, vmax=2)
    panel.set(title=f"{names[gene]}, {name}", aspect="equal", xticks=[], yticks=[])
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "flag_in_one_page.png", dpi=150)
