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
for says in "allow, engagement first" "80/tcp" "open"; do contains "what it prints" "$(cat /run/first-scan.out)" "$says"; done
refused test -e /etc/secmcpd/engagements.d/first.yaml
