"""What a table or figure reads is stated in its script, and nowhere else."""

import pytest

from flag_st.commands.check import check
from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError
from flag_st.planning import config, reads


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Writes ``scripts/figures/mine.py`` with one line, in a checkout of its own."""
    monkeypatch.setattr(reads, "ROOT", tmp_path)
    (tmp_path / "scripts" / "figures").mkdir(parents=True)

    def write(line: str) -> str:
        reads.reads_of.cache_clear()
        (tmp_path / "scripts" / "figures" / "mine.py").write_text(f'"""Mine."""\n\n{line}\n')
        return "figures/mine"

    yield write
    reads.reads_of.cache_clear()


def test_every_shipped_script_states_what_it_reads():
    scripts = [*ROOT.glob("scripts/tables/*.py"), *ROOT.glob("scripts/figures/*.py")]
    assert len(scripts) > 20
    for path in scripts:
        assert set(reads.reads_of(f"{path.parent.name}/{path.stem}")) <= set(reads.READABLE)


def test_the_line_is_read_without_running_the_script(script):
    name = script('import no_such_package\n\nREADS = ("predictions", "spots")')
    assert reads.reads_of(name) == ("predictions", "spots")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", r"figures/mine\.py does not state what it reads.*Valid: scores, runs.*READS ="),
        ('READS = ("scores", "slide")', r"READS names unknown slide\..*Valid: scores, runs"),
        ('READS = "scores"', "must be a tuple of words"),
        ("READS = other()", r"cannot be read \(malformed"),
        ("READS = (", r"cannot be read \(.*never closed"),
    ],
)
def test_a_script_that_states_it_wrongly_is_refused(script, line, message):
    with pytest.raises(FlagError, match=message):
        reads.reads_of(script(line))


def test_check_finds_a_script_that_does_not_say(script, capsys, tmp_path):
    resolved = config.load({"make": ["gene_maps"]})
    script("")
    resolved["experiments"]["gene_maps"]["script"] = "figures/mine"
    assert check(resolved, data=False) == 1
    assert "fault: scripts/figures/mine.py does not state what it reads" in capsys.readouterr().err
