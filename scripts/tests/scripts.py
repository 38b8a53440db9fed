"""Scripts as modules: they have no suffix, so that `import` does not find them."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
# For `perf` and what is in it.
sys.path.insert(0, str(SCRIPTS))
sys.dont_write_bytecode = True


def script(name):
    """The script of that name, without running it."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    # A dataclass looks its own module up.
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module
