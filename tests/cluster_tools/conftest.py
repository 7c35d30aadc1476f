"""A cache of one's own, and a cluster in it that shares only programs with other clusters."""

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hack import cache as caches
from hack.cache import Cache
from hack.cluster import apiserver, build, lifecycle
from hack.cluster.layout import Layout

Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def until() -> Until:
    """Wait for a condition, half a minute at most."""

    def wait(holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30.0
        while not holds():
            assert time.monotonic() < deadline, "not within 30 s"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def port() -> int:
    """A free port for the test cluster's API server."""
    return apiserver.free_ports(1)[0]


@pytest.fixture(scope="session")
def down_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A cluster that has not been started; down at the end whatever the tests did."""
    build.programs(caches.default())
    root = tmp_path_factory.mktemp("cluster-cache")
    (root / "bin").symlink_to(caches.default().programs)
    yield Layout(Cache(root))
    lifecycle.down(Layout(Cache(root)))


@pytest.fixture
def cluster(down_cluster: Layout, port: int) -> Layout:
    """The test cluster, up and healthy."""
    lifecycle.up(down_cluster, port=port)
    return down_cluster


def load_script(name: str) -> ModuleType:
    """Import a script of the serving image, whose folder is no package."""
    path = Path(__file__).parents[2] / "images" / "serving-cpu" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def torch_cpu() -> ModuleType:
    """The script that makes torch's CPU wheel."""
    return load_script("torch_cpu")


@pytest.fixture(scope="session")
def slim() -> ModuleType:
    """The script that slims an installed vLLM."""
    return load_script("slim")
