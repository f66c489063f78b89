"""Suites that kinds of other packages are tested with, by pytest. The program itself imports nothing of this."""

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError("oellm_autoexp.testing needs pytest: pip install pytest", name="pytest") from None

pytest.register_assert_rewrite(f"{__name__}.scheduler_contract")  # a failed assertion shows its values
