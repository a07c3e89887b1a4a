"""A contract for import-linter, which cannot match a part of a module's name by itself."""

from fnmatch import fnmatchcase
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyIn(Contract):
    """Only modules whose names match one of the patterns import the library.

    Options:
        library: The name of a top-level package, such as `grpc`.
        modules: Patterns over full module names, such as `*.grpc_*`.
    """

    type_name = "only_in"

    library: Any = fields.StringField()
    modules: Any = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        importers = (
            graph.find_modules_that_directly_import(self.library)
            if self.library in graph.modules
            else set[str]()
        )
        strangers = sorted(
            name
            for name in importers
            if not any(fnmatchcase(name, pattern) for pattern in self.modules)
        )
        return ContractCheck(kept=not strangers, metadata={"strangers": strangers})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for name in check.metadata["strangers"]:
            output.print_error(f"{name} imports {self.library}", bold=False)
        output.print_error(f"Modules that may: {', '.join(self.modules)}", bold=False)
        output.new_line()
