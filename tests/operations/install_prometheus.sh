#!/usr/bin/env bash
# Installs what the tests of rules, alerts and dashboards run: Prometheus, promtool and Alertmanager, as Debian's packages.
#
# Never fails: without them those tests are skipped, and say so. Leaves no daemon behind, neither now nor at the next boot.
set -uo pipefail

PACKAGES=(prometheus prometheus-alertmanager)
PROGRAMS=(prometheus promtool prometheus-alertmanager)
FORBID=/usr/sbin/policy-rc.d # Debian's way to keep packages from starting what they install
APT=(apt-get --quiet=2 -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30)

missing() {
  local program
  for program in "${PROGRAMS[@]}"; do command -v "$program" >/dev/null || return 0; done
  return 1
}

install_packages() {
  "${APT[@]}" -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "${PACKAGES[@]}"
}

without() {
  echo "setup: no Prometheus ($1): tests of alerts and dashboards will be skipped; apt-get install --no-install-recommends ${PACKAGES[*]}"
  exit 0
}

missing || exit 0
command -v apt-get >/dev/null || without "this is no Debian"
[ "$(id -u)" = 0 ] || without "only root may install it"

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -e "$FORBID" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$FORBID"
  chmod +x "$FORBID"
  trap 'rm -f "$log" "$FORBID"' EXIT
fi
echo "setup: installing ${PACKAGES[*]} by apt-get"
install_packages >"$log" 2>&1 || { "${APT[@]}" update && install_packages; } >"$log" 2>&1
if missing; then without "apt-get: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"; fi
for service in "${PACKAGES[@]}"; do # whichever of the two starts services here
  systemctl disable "$service"
  update-rc.d "$service" disable
done >/dev/null 2>&1
exit 0
