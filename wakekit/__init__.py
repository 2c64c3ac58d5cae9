"Your own wake word, from a phrase to a device, in a notebook, with numbers you can trust."
__version__ = "0.1.0"

_names = {"Detector": "wakekit.ship.stream", "Bundle": "wakekit.ship.stream", "Dataset": "wakekit.data.interchange",
          "Settings": "wakekit.env", "train": "wakekit.learn.train", "evaluate": "wakekit.ship.evaluate",
          "export": "wakekit.ship.export"}
__all__ = list(_names)


def __getattr__(name):
    if name not in _names: raise AttributeError(f"module 'wakekit' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(_names[name]), name)


def __dir__(): return sorted([*globals(), *_names])
