# container only: docs/first-scan.md, as it is installed: every command of it, in its order. What it says is refused is.
accept_lacks
awk '/^```sh$/ {sh = 1; next} /^```$/ {sh = 0} sh' /usr/share/doc/secmcpd/docs/first-scan.md |
	sed 's/^\(.*\)  # refused$/refused \1/' >/run/first-scan.sh
equal "blocks of commands" "$(grep -c '^```sh$' /usr/share/doc/secmcpd/docs/first-scan.md)" 8
equal "commands that are refused" "$(grep -c '^refused ' /run/first-scan.sh)" 1
trap 'ip netns del lab 2>/dev/null || true; systemctl stop lab-web 2>/dev/null || true' EXIT
# shellcheck disable=SC1091 # made above
. /run/first-scan.sh >/run/first-scan.out
cat /run/first-scan.out
contains "what it prints" "$(cat /run/first-scan.out)" "allow, engagement first"
# What it shows of the first result is what is printed, but for the layers that a container lacks and the time.
grep -E '^(HOST|10\.99\.0\.2) ' /usr/share/doc/secmcpd/docs/first-scan.md >/run/first-scan.shown
equal "lines that are shown" "$(wc -l </run/first-scan.shown)" 3
while read -r line; do contains "what it prints" "$(sed 's/ *$//' /run/first-scan.out)" "$line"; done </run/first-scan.shown
contains "what it prints" "$(cat /run/first-scan.out)" "completed, 1 host up, 1 open port, 1 of 1 address looked at"
refused test -e /etc/secmcpd/engagements.d/first.yaml
