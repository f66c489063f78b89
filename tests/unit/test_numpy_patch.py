"""apply_megatron_numpy_product_patch.sh: on a checkout, again, on what is installed, and where there is nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "apply_megatron_numpy_product_patch.sh"
BEFORE = """\
import numpy as np
numel = np.product(sh_ten.local_shape)
rest = numpy.cumproduct(x)[-1] + np.prod(y) + my_np.product(z) + np.products
ok = np.alltrue(a) or np.sometrue(b)  # itertools.product stays
"""
AFTER = """\
import numpy as np
numel = np.prod(sh_ten.local_shape)
rest = numpy.cumprod(x)[-1] + np.prod(y) + my_np.product(z) + np.products
ok = np.all(a) or np.any(b)  # itertools.product stays
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "Megatron LM; $(touch x)"
    (folder / "megatron/core").mkdir(parents=True)
    (folder / "megatron/core/mapping.py").write_text(BEFORE)
    (folder / "megatron/core/other.py").write_text("import numpy\n")
    (folder / "notes.md").write_text("np.product\n")
    return folder


def patch(
    *words: str | Path, script: Path = SCRIPT, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script, *words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, check=False
    )


def test_a_checkout_is_changed_once_and_every_line_is_reported(checkout: Path) -> None:
    file = checkout / "megatron/core/mapping.py"
    file.chmod(0o640)
    done = patch(checkout)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == AFTER
    assert file.stat().st_mode & 0o777 == 0o640
    assert f"{file}:2:numel = np.product(sh_ten.local_shape)" in done.stdout
    assert done.stdout.endswith(f"Changed: 1 file(s) in {checkout}\n")
    assert (checkout / "notes.md").read_text() == "np.product\n"
    again = patch(checkout)
    assert (again.returncode, again.stdout) == (0, f"Nothing to do: no numpy.product in {checkout}\n")


def test_names_that_are_imported_are_replaced_where_they_are_imported(checkout: Path) -> None:
    file = checkout / "megatron/core/mapping.py"
    lines = {
        "from numpy import product\n": "from numpy import prod as product\n",
        "    from numpy import e, product as p, alltrue\n": "    from numpy import e, prod as p, all as alltrue\n",
        "from numpy import (cumproduct, ones)\n": "from numpy import (cumprod as cumproduct, ones)\n",
        "from itertools import product\n": "from itertools import product\n",
        "from numpy import products, my_product\n": "from numpy import products, my_product\n",
    }
    file.write_text("".join(lines))
    assert patch(checkout).returncode == 0
    assert file.read_text() == "".join(lines.values())
    assert "Nothing to do" in patch(checkout).stdout


def test_what_can_not_be_read_is_reported_and_is_no_success(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/grep"  # root reads everything
    fake.write_text("#!/bin/sh\necho 'grep: x.py: Permission denied' >&2\nexit 2\n")
    fake.chmod(0o755)
    done = patch(checkout, PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "Permission denied" in done.stderr
    assert f"can't read all of {checkout}" in done.stderr


def test_a_check_changes_nothing_and_says_so_by_its_exit_code(checkout: Path) -> None:
    assert patch("--check", checkout).returncode == 1
    assert (checkout / "megatron/core/mapping.py").read_text() == BEFORE
    patch(checkout)
    assert patch("--check", checkout).returncode == 0


def test_without_a_folder_it_is_the_submodule_beside_it_else_what_python_imports(
    checkout: Path, tmp_path: Path
) -> None:
    script = Path(shutil.copy(SCRIPT, tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = patch(script=script, PYTHONPATH=str(checkout), PATH=path, cwd=checkout)
    assert done.stdout.endswith(f"Changed: 1 file(s) in {checkout / 'megatron'}\n"), done.stderr
    shutil.copytree(checkout, tmp_path / "submodules/Megatron-LM")
    (tmp_path / "submodules/Megatron-LM/megatron/core/mapping.py").write_text(BEFORE)
    assert patch(script=script).stdout.endswith(f"Changed: 1 file(s) in {tmp_path / 'submodules/Megatron-LM'}\n")


def test_what_is_not_there_or_not_known_is_reported(tmp_path: Path) -> None:
    script = Path(shutil.copy(SCRIPT, tmp_path))
    nothing = patch(script=script, cwd=tmp_path, PYTHONPATH="")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "git submodule update --init" in nothing.stderr
    assert "no folder /nowhere" in patch("/nowhere").stderr
    assert "unknown option --chekc" in patch("--chekc").stderr
    assert "usage: bash apply_megatron_numpy_product_patch.sh" in patch("--help").stdout
