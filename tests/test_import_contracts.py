"""The contract that this project adds to import-linter's own."""

from grimp import ImportGraph

from tests.import_contracts import OnlyIn


def check(*imports: tuple[str, str]):
    graph = ImportGraph()
    for importer, imported in imports:
        graph.add_import(importer=importer, imported=imported)
    options = {"library": "grpc", "modules": ["roundel.wire.*", "*.grpc_*"]}
    contract = OnlyIn("", {}, options)
    return contract.check(graph, verbose=False)


def test_a_module_that_matches_a_pattern_may_import_the_library():
    assert check(("roundel.wire.stream", "grpc"), ("roundel.server.grpc_service", "grpc")).kept


def test_every_other_importer_is_named():
    result = check(
        ("roundel.server.loop", "grpc"),
        ("roundel.client.grpc_node", "grpc"),
        ("roundel.cli.join", "grpc"),
    )
    assert not result.kept
    assert result.metadata["strangers"] == ["roundel.cli.join", "roundel.server.loop"]


def test_an_import_through_a_module_that_may_is_no_offence():
    assert check(
        ("roundel.cli.join", "roundel.client.grpc_node"), ("roundel.client.grpc_node", "grpc")
    ).kept


def test_a_library_that_nobody_imports_keeps_the_contract():
    assert check(("roundel.server.loop", "numpy")).kept
