"""The names that users import, the errors that they catch, and the help that they read."""

import inspect
import subprocess
import sys

import mlx_happyhorse
from mlx_happyhorse import HappyHorse, HappyHorseError, Settings, errors

NAMES = {
    "BrokenRun",
    "Clip",
    "DoesNotFit",
    "HappyHorse",
    "HappyHorseError",
    "HubError",
    "Latents",
    "Line",
    "ModelError",
    "NoRevision",
    "NotResponding",
    "OutOfResources",
    "Plan",
    "Prompt",
    "Recording",
    "Request",
    "RequestError",
    "Settings",
    "State",
    "Step",
    "Stopped",
    "Suggestion",
    "__version__",
    "fit_picture",
    "open_picture",
    "open_recording",
}


def test_the_public_names_are_these():
    assert set(mlx_happyhorse.__all__) == NAMES
    assert set(dir(mlx_happyhorse)) >= NAMES
    assert all(getattr(mlx_happyhorse, name) is not None for name in NAMES)


def test_every_error_is_exported_and_of_one_tree():
    found = [
        value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)
    ]
    assert all(issubclass(error, HappyHorseError) for error in found)
    assert {error.__name__ for error in found} <= NAMES
    assert all(error.__name__ in (errors.__doc__ or "") for error in found)


def test_help_of_generate_lists_every_setting():
    text = HappyHorse.generate.__doc__ or ""
    parameters = inspect.signature(HappyHorse.generate).parameters.keys() - {"self", "settings"}
    keys = Settings.__annotations__.keys()
    assert "upscale" in keys and "seconds" in keys
    assert not {name for name in parameters | keys if name not in text}


def test_an_argument_in_a_message_is_shown_as_python_or_as_a_flag():
    error = errors.RequestError(f"set {errors.argument('low_ram')}.")
    assert str(error) == "set low_ram."
    assert error.worded(lambda name: f"--{name.replace('_', '-')}") == "set --low-ram."


def test_the_package_is_imported_without_mlx():
    code = "import sys, mlx_happyhorse; dir(mlx_happyhorse); assert 'mlx.core' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
