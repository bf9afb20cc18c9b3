# make run · make test · make bench[-people|-render|-train|-speech]: each sets up everything it needs.
# The work is in scripts/ and benchmarks/.
ARGS ?=

.PHONY: run test check bench bench-people bench-render bench-train bench-speech clean

run: .venv/.ready-run
	@exec .venv/bin/python -m server serve $(ARGS)

test: .venv/.ready-test
	@scripts/test.sh $(ARGS)

check: .venv/.ready-test
	@scripts/check.sh

bench: .venv/.ready-test
	@.venv/bin/python -m benchmarks $(ARGS)

bench-people bench-render bench-train bench-speech: bench-%: .venv/.ready-test
	@.venv/bin/python -m benchmarks.$* $(ARGS)

.venv/.ready-run: pyproject.toml scripts/environment.sh
	@scripts/environment.sh run

.venv/.ready-test: pyproject.toml constraints.txt scripts/environment.sh scripts/system.sh tests/browser/package.json
	@scripts/environment.sh run test

clean:
	rm -rf .venv build out node_modules tests/browser/node_modules
