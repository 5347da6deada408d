"""Every method of the shared tier keeps the contract, on the tokeniser that ships with the package."""

import pytest

from avtbench.bench import plugins
from avtbench.bench.contract_suite import Factory, checks
from avtbench.bench.spec import shared


@pytest.mark.parametrize("name", [plugin.name for plugin in shared()])
def test_keeps_the_contract(name):
    factory = Factory(name)
    try:
        factory()
    except (plugins.PluginError, ValueError) as error:
        pytest.skip(f"cannot be set up here: {error}")

    for _, check in checks(factory):
        check()
