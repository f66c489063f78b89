"""run_autoexp_container.py plans inside of a real image, and submits to a real SLURM and watches from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.containers import apptainer
from tests.containers.fixtures import Built, Person
from tests.slurm.cluster import Cluster

SCRIPT = "scripts/run_autoexp_container.py"
QUICK = (
    "project=default",
    "slurm=base",
    "backend.options.train_iters=12",
    "backend.options.log_interval=1",
    "monitoring.poll_interval_seconds=0.3",
)


@pytest.fixture
def home(person: Person) -> Path:
    """An empty folder of the person's, to work in."""
    return person.make_folder("work")


@pytest.fixture
def cluster(make_slurm_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes, which users other than its owner may use, too."""
    made = make_slurm_cluster(nodes=2)
    for folder in (made.directory, made.directory.parent):
        folder.chmod(0o711)
    return made


def manifest_of(folder: Path) -> dict[str, object]:
    """The only plan in a folder."""
    (path,) = (folder / "outputs/manifests").glob("*-*[0-9a-f].json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_a_job_planned_inside_runs_in_the_container_on_two_nodes_and_the_monitor_ends_one_that_hangs(
    person: Person, sif: Built, home: Path, cluster: Cluster
) -> None:
    rule = "{pattern: 'iteration +3/', state: stall, actions: [{class_name: CancelAction}]}"
    done = person.python(
        SCRIPT,
        "--image",
        sif.path,
        *QUICK,
        "slurm.sbatch.nodes=2",
        "slurm.sbatch.ntasks_per_node=1",
        "slurm.sbatch.time=00:05:00",
        "container=base",
        "+slurm.srun.label=true",
        f"+monitoring.log_events.third={rule}",
        "sweep.grids=[{backend.options.misbehave:[exit:0@2,hang@4],stage:[a]}]",
        "++sweep.base_values={project.name:'j${index}'}",
        cwd=home,
        **cluster.environment(),
    )
    assert done.returncode == 1, done.stderr + done.stdout
    assert "2 jobs: 1 success, 1 stall" in done.stdout
    assert "container=none" not in done.stdout + done.stderr
    plan = manifest_of(home)
    assert plan["container"][0]["container"]["image"] == str(sif.path)  # type: ignore[index]
    origin: dict[str, object] = plan["provenance"]  # type: ignore[assignment]
    assert origin["python"] == "/usr/bin/python3"
    assert origin["image"]["path"] == str(sif.path)  # type: ignore[index]
    assert origin["command_line"][0].endswith("run_autoexp_container.py")  # type: ignore[index]
    assert plan["jobs"][0]["argv"][:2] == ["/usr/bin/python3", "/opt/oellm-autoexp/examples/tiny_lm/train.py"]  # type: ignore[index]
    (session,) = (home / "outputs/monitoring_state").glob("*[0-9a-f].json")
    for name, node_count in (("j0", 2), ("j1", 2)):
        job = json.loads(session.read_text())["jobs"][name]
        assert job["answer"]["nodes"] == f"{cluster.node_names[0][:-1]}[1-{node_count}]"
        assert "1: " in (home / f"outputs/{name}/current.log").read_text(), "the last rank, on the second node, prints"


def test_jobs_that_would_miss_the_image_are_not_begun_and_a_dry_run_is_one_document(
    person: Person, sif: Built, home: Path
) -> None:
    words = ("--image", sif.path, "project=default", "sweep.grids=[{stage:[a]}]")
    refused = person.python(SCRIPT, *words, cwd=home)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "container=none: the plan has paths of the image" in refused.stderr
    assert "container=base" in refused.stderr
    shown = person.python(SCRIPT, "--dry-run", "--json", *words, cwd=home)
    assert json.loads(shown.stdout).keys() == {"plan_id", "manifest", "jobs", "gpu_hours", "estimates"}
    assert "#SBATCH" in shown.stderr
    assert not (home / "outputs").exists()


def test_the_plan_is_kept_for_later_and_watched_by_monitor_only(person: Person, sif: Built, home: Path) -> None:
    words = ("--image", sif.path, "project=default", "backend.options.train_iters=5", "sweep.grids=[{stage:[a]}]")
    launcher = f"slurm.launcher_cmd='{apptainer.program()} exec --bind {home} {sif.path}'"
    planned = person.python(SCRIPT, "--no-submit", "--json", *words, launcher, cwd=home)
    assert planned.returncode == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert "container=none: the plan has paths of the image" in planned.stderr
    assert not (home / "outputs/monitoring_state").exists()
    run = person.python("scripts/submit_autoexp.py", "--manifest", facts["manifest"], "--no-monitor", cwd=home)
    assert run.returncode == 0, run.stderr
    for more in ((), ("--manifest", facts["manifest"])):
        watched = person.python(SCRIPT, "--monitor-only", *more, cwd=home)
        assert watched.returncode == 0, watched.stderr
        assert "1 job: 1 success" in watched.stdout


def test_configs_and_overrides_of_the_user_reach_the_plan_and_a_dry_run_writes_nothing(
    person: Person, sif: Built, home: Path
) -> None:
    experiment = home / "mine, 1" / "experiments" / "me" / "exp.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nproject: {name: mine}\nbackend: {argv: [echo, '${oc.env:WORD}']}\n")
    (home / "overrides.txt").write_text("+metadata.note=n\n")
    words = ("--image", sif.path, "-C", home / "mine, 1", "--config-ref", "experiments/me/exp", "--dry-run")
    result = person.python(
        SCRIPT, *words, "--overrides-from", home / "overrides.txt", cwd=home, WORD="from the host", PYTHONPATH="."
    )
    assert result.returncode == 0, result.stderr
    assert "echo 'from the host'" in result.stdout
    assert not (home / "outputs").exists()


def test_a_mistake_in_the_config_is_reported_as_without_a_container(person: Person, sif: Built, home: Path) -> None:
    words = ("--image", sif.path, "--no-submit", "project=default", "slurm.sbatch.time=never")
    done = person.python(SCRIPT, *words, cwd=home)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "never" in done.stderr
    assert "planning inside" not in done.stderr


@pytest.fixture
def limited(make_slurm_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster whose only partition allows ten minutes."""
    made = make_slurm_cluster(nodes=1, partitions=("short Default=YES MaxTime=00:10:00",))
    for folder in (made.directory, made.directory.parent):
        folder.chmod(0o711)
    return made


OF_SITE = {
    "time": ("slurm.sbatch.time=00:11:00",),
    "partition": ("slurm.sbatch.partition=long",),
    "only the sweep chooses SLURM": (
        "slurm=local",
        "sweep.grids=[{slurm:[base],stage:[a]}]",
        "+sweep.defaults.slurm.sbatch.time=00:11:00",
    ),
}


@pytest.mark.parametrize("far", ["--no-submit", "--dry-run", "--no-monitor"])
@pytest.mark.parametrize("wrong", OF_SITE)
def test_what_slurm_outside_would_refuse_is_refused_in_the_words_of_a_plan_outside(
    person: Person, sif: Built, home: Path, limited: Cluster, wrong: str, far: str
) -> None:
    chosen = () if wrong.startswith("only") else ("slurm=base",)
    words = (far, "project=default", *chosen, *OF_SITE[wrong], "container=base", f"container.image={sif.path}")
    inside = person.python(SCRIPT, *words, cwd=home, **limited.environment())
    plain = person.python("scripts/run_autoexp.py", *words, cwd=home, **limited.environment())
    assert (inside.returncode, inside.stdout) == (2, "")
    of_checkout = inside.stderr.replace("/opt/oellm-autoexp/", f"{person.checkout}/")
    assert of_checkout == plain.stderr
    assert "partition short allows 0-00:10:00" in inside.stderr or "no partition 'long'" in inside.stderr
    assert not (home / "outputs").exists()


def test_an_image_that_the_sweep_chooses_is_planned_in(person: Person, sif: Built, home: Path) -> None:
    sweep = "sweep.grids=[{container:[base],stage:[a]}]"
    words = ("project=default", sweep, "--no-submit", "--json")
    named = person.python(SCRIPT, "--image", sif.path, *words, cwd=home)
    assert named.returncode == 0, named.stderr
    assert manifest_of(home)["container"][0]["container"]["image"] == str(sif.path)  # type: ignore[index]
    assert "container=none" not in named.stderr
    shutil.rmtree(home / "outputs")
    (home / "artifacts").mkdir()
    (home / "artifacts/MegatronTraining.sif").symlink_to(sif.path)
    person.own(home)
    chosen = person.python(SCRIPT, *words, cwd=home)
    assert chosen.returncode == 0, chosen.stderr
    assert manifest_of(home)["provenance"]["image"]["path"] == f"{home}/artifacts/MegatronTraining.sif"  # type: ignore[index]


def test_jobs_of_a_sweep_in_several_images_or_only_partly_in_one_are_reported(
    person: Person, sif: Built, home: Path
) -> None:
    several = "sweep.grids=[{container:[base],container.image:[/a.sif,/b.sif],stage:[a]}]"
    done = person.python(SCRIPT, "project=default", several, "--no-submit", cwd=home)
    assert done.returncode == 2
    assert "a plan is made in one image, but the jobs use /a.sif, /b.sif" in done.stderr
    assert "--image PATH" in done.stderr
    partly = "sweep.grids=[{container:[base,none],stage:[a]}]"
    done = person.python(SCRIPT, "project=default", partly, "--image", sif.path, "--no-submit", cwd=home)
    assert done.returncode == 2
    assert "--image: the jobs run in containers of several kinds (ApptainerContainer, NoContainer)" in done.stderr


def test_what_keeps_jobs_from_their_container_is_noted_where_they_are_not_submitted_and_else_refused(
    person: Person, sif: Built, home: Path
) -> None:
    words = ("--image", sif.path, "project=default", "container=base", "+container.binds.x=/no/such")
    noted = person.python(SCRIPT, *words, "--no-submit", cwd=home)
    assert noted.returncode == 0, noted.stderr
    assert "the path to bind does not exist: /no/such" in noted.stdout
    shutil.rmtree(home / "outputs")
    refusal = person.python(SCRIPT, *words, cwd=home)
    assert refusal.returncode == 2
    assert "the path to bind does not exist: /no/such" in refusal.stderr
    assert not (home / "outputs").exists()


def test_an_image_of_an_older_state_of_the_same_version_is_reported_before_it_plans(
    person: Person, rootfs: Path, home: Path
) -> None:
    source = rootfs / "opt/oellm-autoexp/oellm_autoexp/containers/inside.py"
    source.write_text(source.read_text().replace("TALK = 1", "OLD = 1"))
    text = refused(person, home, rootfs)
    assert "the image has an older state of oellm-autoexp" in text
    assert "build the image again from this version" in text


def refused(person: Person, home: Path, image: Path | str, *more: str, **environment: str) -> str:
    """The one error that planning in an image ends with; nothing is planned."""
    done = person.python(SCRIPT, "--image", image, "--no-submit", *more, "project=default", cwd=home, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not (home / "outputs").exists()
    return line + done.stderr.split(line)[1]


def changed(image: Path, at: int, data: bytes, target: Path) -> Path:
    """A copy of an image with other bytes at a place."""
    shutil.copy(image, target)
    with target.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return target


def test_an_image_that_is_not_there(person: Person, home: Path) -> None:
    assert f"--image {home}/no.sif: there is no image here" in refused(person, home, home / "no.sif")


def test_an_image_of_another_user(person: Person, sif: Built, home: Path) -> None:
    closed = home / "closed.sif"
    shutil.copy(sif.path, closed)
    closed.chmod(0o200)
    person.own(closed)
    words = [word for word in person.words() if "caps" not in word]  # a user who may read what they may read
    program = "from oellm_autoexp.containers.image import check_image; check_image('closed.sif')"
    done = subprocess.run(
        [*words, "/usr/bin/python3", "-c", program],
        cwd=home,
        env=person.environment(PYTHONPATH=str(person.checkout)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "you have no permission to read the image" in done.stderr


def test_an_image_for_another_processor(person: Person, sif: Built, home: Path) -> None:
    arm = changed(sif.path, 45, b"04", home / "arm.sif")
    assert "the image is made for aarch64, and this machine is x86_64" in refused(person, home, arm)


def test_a_folder_for_another_processor(person: Person, rootfs: Path, home: Path) -> None:
    for name in ("bin/dash", "usr/bin/env", "bin/ls", "usr/bin/python3.11"):
        with (rootfs / name).open("r+b") as file:
            file.seek(18)
            file.write(b"\xb7\0")
    assert "the image is made for aarch64, and this machine is x86_64" in refused(person, home, rootfs)


def test_an_image_that_was_copied_in_part(person: Person, sif: Built, home: Path) -> None:
    short = home / "short.sif"
    short.write_bytes(sif.path.read_bytes()[:100_000])
    assert "the image is incomplete: it has 100000 bytes of" in refused(person, home, short)


def test_what_is_no_image(person: Person, home: Path) -> None:
    (home / "text.sif").write_text("text\n")
    assert "is not an image: neither a SIF file nor a folder" in refused(person, home, home / "text.sif")
    assert "a folder without a root file system" in refused(person, home, home)


def test_an_image_without_our_package(person: Person, base_image: Path, home: Path) -> None:
    text = refused(person, home, base_image)
    assert "the image's python3 (/usr/bin/python3, 3." in text
    assert "has no oellm-autoexp" in text
    assert "container/build_container.sh" in text


def test_an_image_whose_package_lacks_what_it_needs(person: Person, rootfs: Path, home: Path) -> None:
    (found,) = rootfs.glob("usr/local/lib/python3*/dist-packages/pydantic")
    shutil.rmtree(found)
    assert "can't be imported: ModuleNotFoundError: No module named 'pydantic'" in refused(person, home, rootfs)


def test_an_image_without_python(person: Person, rootfs: Path, home: Path) -> None:
    (rootfs / "usr/bin/python3").unlink()
    assert "the image has no python3 in its PATH" in refused(person, home, rootfs)


@pytest.mark.parametrize("what", ["program", "manifest"])
def test_planning_inside_with_another_version(person: Person, rootfs: Path, home: Path, what: str) -> None:
    file, old, new = {
        "program": ("__init__.py", '__version__ = "', '__version__ = "99.'),
        "manifest": ("__init__.py", "MANIFEST_VERSION = 1", "MANIFEST_VERSION = 2"),
    }[what]
    source = rootfs / "opt/oellm-autoexp/oellm_autoexp" / file
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))
    text = refused(person, home, rootfs)
    assert "the image has oellm-autoexp" in text
    assert ("99." if what == "program" else "(manifests of version 2)") in text
    assert "build the image again from this version" in text


def test_a_training_script_that_the_image_lacks_is_said_to_be_absent_there(
    person: Person, sif: Built, home: Path
) -> None:
    words = ("--image", sif.path, "--no-submit", "--config-ref=experiments/megatron_auto_restart", "slurm=local")
    done = person.python(SCRIPT, *words, "container=base", cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"pretrain_gpt.py is not in the image {sif.path}; name another image, or build it from" in done.stdout
    assert "pretrain_gpt.py is not on this machine" not in done.stdout


def test_other_sources_of_the_same_version_are_noted(person: Person, rootfs: Path, home: Path) -> None:
    source = rootfs / "opt/oellm-autoexp/oellm_autoexp/core/text.py"
    source.write_text(f"{source.read_text()}\n# changed\n")
    done = person.python(SCRIPT, "--image", rootfs, "--no-submit", "project=default", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "the image's oellm-autoexp" in done.stderr
    assert "has other source files than this one" in done.stderr


def test_a_runtime_that_is_not_there(person: Person, sif: Built, home: Path) -> None:
    without = {"PATH": "/usr/bin:/bin"}
    assert "no container runtime in PATH: neither apptainer nor singularity" in refused(
        person, home, sif.path, **without
    )
    text = refused(person, home, sif.path, "--container-runtime", "singularity", **without)
    assert "--container-runtime: no program singularity in PATH" in text
    assert "module load singularity" in text


def test_a_program_of_that_name_that_is_none(person: Person, sif: Built, home: Path) -> None:
    game = home / "singularity"
    game.write_text("#!/bin/sh\necho Endgame: Singularity 1.00\n")
    game.chmod(0o755)
    text = refused(person, home, sif.path, "--container-runtime", str(game))
    assert "is neither Apptainer nor Singularity: --version prints 'Endgame: Singularity 1.00'" in text


def test_no_image_is_named(person: Person, home: Path) -> None:
    done = person.python(SCRIPT, "--no-submit", "project=default", cwd=home)
    assert done.returncode == 2
    assert "$.container.image: no image is named" in done.stderr
    assert "--image PATH" in done.stderr
