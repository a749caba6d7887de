"""CellFM (Zeng et al., Nature Communications 2025), read from its checkpoints without MindSpore.

HINGE takes it as its frozen backbone, and FLAG can align to its states. Its weights are under CC BY-NC-ND 4.0:
neither they nor anything that was fine-tuned from them may be passed on.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import digest
from flag_st.gene_models.base import GeneModel
from flag_st.gene_models.columns import OTHER_GENES, positions, report_unknown
from flag_st.gene_models.files import Files
from flag_st.gene_models.token_states import blocks
from flag_st.transfer.github import GitHub
from flag_st.transfer.mindspore import read_mindspore
from flag_st.transfer.weights import Checkpoint, fill

if TYPE_CHECKING:
    from torch import Tensor

    from flag_st.nets.cellfm import CellFm, CellFmSizes

ADDRESS = (
    "https://huggingface.co/ShangguanNingyuan/CellFM (lists of genes: github.com/biomed-AI/CellFM)"
)
#: What the published files hold beside the parts that are used here.
UNUSED = ("ST_emb", "ST_enc.", "cellwise_dec.", "value_dec.zero_logit.")
REMEDY = f"{OTHER_GENES}; for genes with former names give params.aliases of its entry"
#: What MindSpore calls the scale and the shift of a norm → what torch calls them.
NORMS = {"gamma": "weight", "beta": "bias"}


class GeneList(NamedTuple):
    """A published list of genes, whose j-th gene has row j + 1 of the gene table."""

    file: str
    genes: int
    sha256: str


#: Rows of a gene table → its list. 24,075 genes stand in both of them and all but one at other places, so
#: that the wrong list would give every gene another gene's vector without any error.
LISTS = {
    24_080: GeneList(
        "gene_info.csv", 24_078, "406c5df678f3ff17bbfc3cf9f95326ba311e4536e5c71c2f31dce51e39f7b446"
    ),
    27_856: GeneList(
        "expand_gene_info.csv",
        27_855,
        "b7aec69e8dc0cff9dee53c7cdef8bb6a6e7c20be4a89e55ef9fb2f745669e882",
    ),
}
#: The repository of the lists and its commit.
CODE = ("biomed-AI/CellFM", "76557975c935d6822ddcfd8bb9700d0b95ec7dd7")


class PublishedCellFm(GeneModel):
    """Contextual gene embeddings: the state after the last layer at each panel gene's token.

    A spot is read as its expressed panel genes, with log(1 + count / total · 10⁴) as values, because
    CellFM was pre-trained on expressed genes alone.

    Args:
        weights: folder with the checkpoint and its list of genes, or None to fetch them.
        repo, revision: hub repository and commit of the checkpoint.
        file: name of the checkpoint.
        sha256: digest that the checkpoint must have, or None to accept any.
        width, layers, heads, bins: sizes of the network (``nets.cellfm.CellFmSizes``).
        aliases: HGNC's table of approved, previous and alias symbols (``read_aliases``), by which genes
            with other names are looked up as by CellFM's own code, or None to take names as they are.
    """

    kind: str = "contextual"
    backs: bool = True

    def __init__(
        self,
        weights: str | None = None,
        repo: str | None = None,
        revision: str | None = None,
        file: str = "base_weight.ckpt",
        sha256: str | None = None,
        width: int = 1536,
        layers: int = 40,
        heads: int = 48,
        bins: int = 256,
        aliases: str | None = None,
    ):
        pins = {known.file: known.sha256 for known in LISTS.values()}
        pins |= {file: sha256} if sha256 else {}
        lists = {known.file: lambda name=known.file: _from_github(name) for known in LISTS.values()}
        self.files = Files(weights, ADDRESS, repo, revision, pins, lists)
        self.file, self.aliases = file, aliases
        self.width, self.layers, self.heads, self.bins = width, layers, heads, bins

    def open(self, device: str) -> None:
        """Load the weights, and the list of genes that belongs to as many rows.

        Raises:
            FlagError: a file is missing, truncated or of another model, or no list has as many genes.
        """
        import torch

        path, expected = self.files[self.file], f"{self.file} of {ADDRESS}"
        found = read_mindspore(path, lambda tag: not tag.startswith(UNUSED))
        state = {_torch_name(tag): torch.from_numpy(found.pop(tag)).float() for tag in list(found)}
        for name in ("gene_emb", "zero_emb"):
            if name not in state:
                raise FlagError(f"{path} lacks {name}", remedy=f"the file should be {expected}")
        rows = len(state["gene_emb"])
        self.genes = read_genes(self.files[list_of(rows, path).file])
        self.renamed: dict[str, str] = {}
        if self.aliases:
            self.renamed = read_aliases(self.aliases)
            self.files.digests["aliases"] = digest(self.aliases)
        with torch.device("meta"):
            net = self.whole(rows)
        fill(net, state, path, expected, ignore=["zero_emb"])
        self.state = {**net.state_dict(), "zero_emb": state["zero_emb"]}
        self.device = device

    def known_symbols(self) -> list[str]:
        """The symbols that both published lists have, since the checkpoint alone tells which is its own."""
        known = set.intersection(*(set(read_genes(self.files[n.file])) for n in LISTS.values()))
        former = read_aliases(self.aliases).items() if self.aliases else ()
        return sorted(known | {old for old, new in former if new in known})

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, (n, G, D), (n, G) mask of the genes that are expressed and known)."""
        import torch
        from scipy import sparse

        known = np.isin(self._names(panel), self.genes)  # (G,)
        report_unknown(panel, known, f"the vocabulary of {self.file}")
        net = self.backbone([gene for gene, here in zip(panel, known, strict=True) if here]).eval()
        table = sparse.csr_matrix(counts, dtype=np.float64)
        total = np.maximum(np.asarray(table.sum(1)), 1)  # (N, 1)
        table = table[:, positions(genes, panel, "the slide")]  # (N, G)
        for rows in progress(blocks(table.shape[0], len(panel), self.width), desc="spots"):
            values = np.log1p(table[rows].toarray() / total[rows] * 1e4)  # (n, G)
            given = torch.from_numpy(values[:, known].astype(np.float32)).to(self.device)
            with torch.inference_mode():
                states = net.states(given, present=given > 0).cpu().numpy()
            found = np.zeros((*values.shape, self.width), np.float32)
            mask = (values > 0) & known
            found[:, known] = states
            found[~mask] = 0
            yield rows, found, mask

    def backbone(self, panel: Sequence[str], **body: Any) -> "CellFm":
        """The network for the genes of ``panel`` alone, in their order.

        Args:
            panel: G symbols; the gene table keeps their rows and no other.
            body: how it reads masked input, arguments of ``nets.cellfm.CellFm``.

        Raises:
            FlagError: a gene is outside the vocabulary.
        """
        import torch

        names = self._names(panel)
        known = positions(self.genes, names, f"the vocabulary of {self.file}", REMEDY)
        if len(set(names)) < len(names):
            raise FlagError(
                f"the panel names {max(names, key=names.count)} twice by the table {self.aliases}",
                remedy="leave one of the names out in panels.NAME.genes",
            )
        with torch.device("meta"):
            net = self.empty(len(panel), **body)
        rows = [0, *(known + 1)]
        state: dict[str, Tensor] = {**self.state, "gene_emb": self.state["gene_emb"][rows]}
        net.load_state_dict({name: state[name] for name in net.state_dict()}, assign=True)
        return net.to(self.device)

    def empty(self, genes: int, **body: Any) -> "CellFm":
        """A network of the same sizes for a panel of G genes, without pre-trained weights."""
        from flag_st.nets.cellfm import CellFm

        return CellFm(self._sizes(genes + 1), range(1, genes + 1), **body)

    def whole(self, rows: int) -> "CellFm":
        """The published network, whose table has so many rows, without its weights."""
        from flag_st.nets.cellfm import CellFm

        return CellFm(self._sizes(rows), [])

    def digest(self) -> str:
        return self.files.digest()

    def _names(self, panel: Sequence[str]) -> list[str]:
        """The panel by the symbols of the list."""
        known = set(self.genes)
        return [gene if gene in known else self.renamed.get(gene, gene) for gene in panel]

    def _sizes(self, rows: int) -> "CellFmSizes":
        from flag_st.nets.cellfm import CellFmSizes

        return CellFmSizes(rows, self.width, self.layers, self.heads, self.bins)


def _torch_name(tag: str) -> str:
    """The name in ``nets.cellfm`` of a tensor, which differs for norms alone."""
    name, _, kind = tag.rpartition(".")
    return f"{name}.{NORMS.get(kind, kind)}" if name else tag


def list_of(rows: int, path: Path) -> GeneList:
    """The list of genes that belongs to a gene table.

    Raises:
        FlagError: no published list has as many genes.
    """
    if rows not in LISTS:
        raise FlagError(
            f"{path} has a gene table of {rows} rows, whose genes nobody has published",
            choices=[f"{known} rows ({LISTS[known].file})" for known in LISTS],
            remedy=f"get the file again from {ADDRESS}",
        )
    return LISTS[rows]


def read_genes(path: Path) -> list[str]:
    """The first column of a list, in its order."""
    with open(path, encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]


def read_aliases(path: str | Path) -> dict[str, str]:
    """Other name → approved symbol, from a tab-separated table of HGNC.

    Names that are approved symbols themselves are left out, and previous symbols count more than aliases.

    Args:
        path: with the columns ``Approved symbol``, ``Status``, ``Previous symbols`` and ``Alias symbols``,
            of which the last two list names separated by commas; only rows with the status Approved count.

    Raises:
        FlagError: the file cannot be read, or lacks a column.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlagError(f"cannot read the table of aliases {path} ({error})") from None
    wanted = ("Approved symbol", "Status", "Alias symbols", "Previous symbols")
    if missing := [name for name in wanted if not rows or name not in rows[0]]:
        raise FlagError(
            f"{path} has no column {missing[0]}",
            remedy="download it with these columns from https://www.genenames.org/download/custom/",
        )
    rows = [row for row in rows if row["Status"] == "Approved"]
    approved = {row["Approved symbol"] for row in rows}
    found: dict[str, str] = {}
    for column in wanted[2:]:
        for row in rows:
            others = {name.strip() for name in (row[column] or "").split(",")} - approved
            found |= {name: row["Approved symbol"] for name in others if name}
    return found


def _from_github(name: str) -> Path:
    """A list of genes beside CellFM's code, which is downloaded if it is not here yet."""
    repo, commit = CODE
    folder, inside = Checkpoint(repo, name).folder, f"csv/{name}"
    if (folder / inside).is_file():
        return folder / inside
    try:
        return GitHub(repo, commit, folder).fetch([inside])[0]
    except FlagError as error:
        raise FlagError(
            str(error),
            remedy=f"without a download: put {inside} of https://github.com/{repo} at commit {commit} "
            f"into {folder / 'csv'}, or beside the checkpoint that params.weights names",
        ) from None
