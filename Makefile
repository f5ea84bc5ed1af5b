# SPDX-License-Identifier: LGPL-2.1-or-later
# 'make help' lists the targets. Everything that is made goes into build/.

DESTDIR ?=
PREFIX ?= /usr
SYSCONFDIR ?= /etc
SBINDIR ?= $(PREFIX)/sbin
LIBDIR ?= $(PREFIX)/lib
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
SYSTEMD_DIR ?= $(LIBDIR)/systemd
UNIT_DIR ?= $(SYSTEMD_DIR)/system
GENERATOR_DIR ?= $(SYSTEMD_DIR)/system-generators
CATALOG_DIR ?= $(SYSTEMD_DIR)/catalog
TMPFILES_DIR ?= $(LIBDIR)/tmpfiles.d
UDEV_RULES_DIR ?= $(LIBDIR)/udev/rules.d
INITRAMFS_TOOLS_DIR ?= $(DATADIR)/initramfs-tools
DRACUT_DIR ?= $(LIBDIR)/dracut
# The scripts and the units name this directory; it is not for moving.
PRIVATE_DIR = /usr/lib/persist

PYTHON ?= /usr/bin/python3
INSTALL ?= install
BUILD = build
VENV = $(BUILD)/venv
VERSION = $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' persist/version.py)
DEBS = $(patsubst %,$(BUILD)/%_$(VERSION)_all.deb,persist persist-common persist-image-tools persist-initramfs-tools persist-dracut)
SOURCES = $(shell find Makefile bin generators packaging persist units -type f -not -name '*.pyc')
PYTEST = $(PYTHON) -m pytest -p no:cacheprovider
export PYTHONDONTWRITEBYTECODE = 1

.DEFAULT_GOAL = help
.PHONY: help
help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

# Installation

.PHONY: install install-common install-image-tools install-persist install-man install-initramfs-tools install-dracut
install: install-common install-image-tools install-persist install-man install-initramfs-tools install-dracut ## install below DESTDIR

# What both sides use: the machine that keeps its state, and the host that makes images.
install-common:
	find persist -path persist/image -prune -o -name '*.py' -print | LC_ALL=C sort | while read -r file; do \
		$(INSTALL) -D -m 644 "$$file" "$(DESTDIR)$(PRIVATE_DIR)/$$file" || exit 1; done
	$(INSTALL) -D -m 755 bin/persistctl $(DESTDIR)$(SBINDIR)/persistctl

install-image-tools:
	$(INSTALL) -d $(DESTDIR)$(PRIVATE_DIR)/persist/image
	$(INSTALL) -m 644 persist/image/*.py $(DESTDIR)$(PRIVATE_DIR)/persist/image

install-persist:
	$(INSTALL) -D -m 755 bin/register-state-path $(DESTDIR)$(SBINDIR)/register-state-path
	$(INSTALL) -D -m 755 bin/persist-service $(DESTDIR)$(PRIVATE_DIR)/persist-service
	$(INSTALL) -m 755 packaging/initrd/persist-stage packaging/initrd/persist-init $(DESTDIR)$(PRIVATE_DIR)
	$(INSTALL) -D -m 755 generators/persist-generator $(DESTDIR)$(GENERATOR_DIR)/persist-generator
	$(INSTALL) -d $(DESTDIR)$(UNIT_DIR)/multi-user.target.wants $(DESTDIR)$(UNIT_DIR)/soft-reboot.target.wants $(DESTDIR)$(UDEV_RULES_DIR) $(DESTDIR)$(CATALOG_DIR) \
		$(DESTDIR)$(UNIT_DIR)/sysinit.target.wants $(DESTDIR)$(DATADIR)/persist/presets $(DESTDIR)$(LIBDIR)/persist.d $(DESTDIR)$(LIBDIR)/persist/identity.d $(DESTDIR)$(TMPFILES_DIR)
	$(INSTALL) -m 644 units/*.service units/*.target units/*.timer units/*.path $(DESTDIR)$(UNIT_DIR)
	for drop_in in units/*.service.d/*.conf; do $(INSTALL) -D -m 644 "$$drop_in" "$(DESTDIR)$(UNIT_DIR)/$${drop_in#units/}" || exit 1; done
	ln -sf ../persist-verify.service $(DESTDIR)$(UNIT_DIR)/multi-user.target.wants/persist-verify.service
	ln -sf ../persist-regenerate.service $(DESTDIR)$(UNIT_DIR)/sysinit.target.wants/persist-regenerate.service
	ln -sf ../persist-seal-refused.service $(DESTDIR)$(UNIT_DIR)/sysinit.target.wants/persist-seal-refused.service
	ln -sf ../persist-soft-reboot.service $(DESTDIR)$(UNIT_DIR)/soft-reboot.target.wants/persist-soft-reboot.service
	ln -sf ../persist-soft-reboot-stage.service $(DESTDIR)$(UNIT_DIR)/soft-reboot.target.wants/persist-soft-reboot-stage.service
	for rules in units/*.rules; do [ ! -e "$$rules" ] || $(INSTALL) -m 644 "$$rules" $(DESTDIR)$(UDEV_RULES_DIR); done
	$(INSTALL) -m 644 units/persist.catalog $(DESTDIR)$(CATALOG_DIR)
	$(INSTALL) -m 644 units/tmpfiles.d/persist.conf $(DESTDIR)$(TMPFILES_DIR)
	$(INSTALL) -m 644 units/presets/*.conf $(DESTDIR)$(DATADIR)/persist/presets
	$(INSTALL) -m 644 units/identity.d/*.conf $(DESTDIR)$(LIBDIR)/persist/identity.d
	$(INSTALL) -D -m 644 packaging/cloud-init/90_persist.cfg $(DESTDIR)$(SYSCONFDIR)/cloud/cloud.cfg.d/90_persist.cfg

install-man:
	for page in packaging/man/*.[1-9]; do \
		$(INSTALL) -D -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}" || exit 1; done

install-initramfs-tools:
	$(INSTALL) -D -m 755 packaging/initramfs-tools/hooks/persist $(DESTDIR)$(INITRAMFS_TOOLS_DIR)/hooks/persist
	$(INSTALL) -D -m 755 packaging/initramfs-tools/scripts/init-bottom/persist $(DESTDIR)$(INITRAMFS_TOOLS_DIR)/scripts/init-bottom/persist

install-dracut:
	$(INSTALL) -D -m 755 packaging/dracut/90persist/module-setup.sh $(DESTDIR)$(DRACUT_DIR)/modules.d/90persist/module-setup.sh
	$(INSTALL) -m 644 packaging/dracut/90persist/persist-stage.service $(DESTDIR)$(DRACUT_DIR)/modules.d/90persist/persist-stage.service

# Packages

.PHONY: deb deb-check test-install release
deb: $(BUILD)/.deb ## build the Debian packages into build/

# Made again only when something that goes into it has changed.
$(BUILD)/.deb: $(SOURCES)
	packaging/install-deps build
	packaging/build-deb $(BUILD)
	@touch $@

deb-check: deb ## lintian on the Debian packages
	packaging/install-deps lint
	lintian --fail-on error --tag-display-limit 0 --allow-root $(DEBS)

test-install: deb ## install and purge the packages in fresh Debian 12 and 13 systems (as root)
	packaging/install-deps vm
	PERSIST_DEBS="$(abspath $(DEBS))" $(PYTHON) -m tests.vm.install

release: $(VENV)/.done ## what is published of this commit: source archive, packages, SHA256SUMS
	packaging/install-deps build lint
	packaging/release $(VENV)/bin $(BUILD)/release

# Tests

.PHONY: test test-deps test-parts test-unit test-model test-generator test-storage test-nspawn test-vm test-harness test-powercut test-heal-ring lint format bench demo
test: test-deps ## install what the tests need and run all layers (as root)
	@$(PYTHON) -m tests.layers

test-deps:
	packaging/install-deps build lint test nspawn vm

# What several layers need and one has to make; the stick on a loop device.
test-parts: deb
	$(PYTHON) -c "from tests.vm import scene; scene.stick_image()"

test-unit: ## parsers, plan, refusals, lint rules of our own
	$(PYTEST) tests/unit

test-model: ## what happens to two and three members with raw copies, in every order of six steps; 'make test' goes less far with copies
	PERSIST_TEST_MODEL_STEPS=6 $(PYTEST) tests/unit/test_members_model.py

test-generator: ## golden cases of the generator
	$(PYTEST) tests/generator

test-storage: ## loop devices and real mounts (as root)
	$(PYTEST) tests/storage

test-nspawn: deb ## both releases' systemd in containers, with the packages installed (as root)
	PERSIST_DEBS="$(abspath $(DEBS))" $(PYTEST) tests/nspawn

test-vm: deb ## real boots under QEMU, two machines side by side
	PERSIST_DEBS="$(abspath $(DEBS))" $(PYTHON) -m tests.vm -m "not harness"

test-harness: deb ## all that the VM tests' own machinery is asked to do; when tests/vm has changed
	PERSIST_DEBS="$(abspath $(DEBS))" $(PYTHON) -m tests.vm tests/vm/test_harness.py

test-powercut: deb ## 50 power cuts of each kind under QEMU (an hour); 'make test' makes a few
	PERSIST_DEBS="$(abspath $(DEBS))" PERSIST_TEST_CUTS=50 $(PYTHON) -m tests.vm tests/vm/test_powercut.py

format: $(VENV)/.done ## let ruff lay out the Python code
	$(VENV)/bin/ruff format .

test-heal-ring: deb ## go back 200 times to a boot to which a stale member comes back (hours)
	PERSIST_DEBS="$(abspath $(DEBS))" $(PYTHON) -m tests.vm.heal_ring

lint: $(VENV)/.done ## ruff, mypy --strict, shellcheck
	packaging/lint $(VENV)/bin

$(VENV)/.done: packaging/lint-requirements.txt
	@echo "lint: fetching the pinned mypy and ruff into $(VENV)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r packaging/lint-requirements.txt
	@touch $@

bench: deb ## the generator beside systemd-fstab-generator, formatting beside a bare script, sealing beside find, boots beside a hand-written initrd and an ordinary boot (as root)
	@status=0; for bench in tests/bench/run.py tests/bench/claim.py tests/bench/seal.py "-m tests.bench.boot" "-m tests.bench.instructions" "-m tests.bench.seal_boot"; do $(PYTHON) $$bench || status=1; done; exit $$status

demo: ## build everything, boot it, change it, reboot it and show what survived (as root)
	packaging/install-deps build vm
	$(MAKE) deb
	PERSIST_DEBS="$(abspath $(DEBS))" $(PYTHON) -m tests.vm.demo

.PHONY: clean
clean: ## remove what was made
	rm -rf $(BUILD)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
