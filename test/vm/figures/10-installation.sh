# From apt to the first answer of a scan, in turns with nmap alone, by the same apt and to the same answer. Nothing is
# fetched: all packages are here. The person who installs has an agent's user already.
export DEBIAN_FRONTEND=noninteractive
agent_user() { id -u alice >/dev/null 2>&1 || useradd --create-home alice; }
agent_user
lab_up 22
accepted() { # what a container lacks; a real machine needs no settings
	mkdir -p /etc/secmcpd/conf.d
	echo 'accept_unenforced: [cgroup-cpu, cgroup-io, cgroup-memory, cgroup-pids, landlock]' >/etc/secmcpd/conf.d/container.yaml
}
names=$(for file in /test/debs/*.deb; do dpkg-deb --field "$file" Package; done)
# shellcheck disable=SC2086 # names of packages
none() {
	dpkg --purge secmcpd $names
	rm -rf /etc/secmcpd
	systemctl daemon-reload
}
plain() {
	apt-get -q install -y --no-install-recommends /test/debs/*.deb
	as alice nmap -n -Pn -sT -p 22 "$lab" | grep open
}
whole() {
	apt-get -q install -y --no-install-recommends "$deb" /test/debs/*.deb
	usermod --append --groups secmcpd-agents alice
	seconds scan >/tmp/answer
}
scan() { call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}" | grep '"open_ports": 1'; }
alone=() both=() package=() answer=()
for _ in 1 2 3; do
	none >/dev/null 2>&1
	alone+=("$(seconds plain)")
	# The package where nmap is already.
	accepted
	package+=("$(seconds whole)")
	none >/dev/null 2>&1
	accepted
	both+=("$(seconds whole)")
	answer+=("$(cat /tmp/answer)")
done
printf '%s\n' "${alone[@]}" | figure install_nmap s "apt-get install of nmap, to its first answer"
printf '%s\n' "${package[@]}" | figure install_package s "of the package beside an nmap that is there, to an agent's first answer"
printf '%s\n' "${both[@]}" | figure install_both s "of both, to an agent's first answer"
printf '%s\n' "${answer[@]}" | figure install_answer s "of that, the agent's part: connection, both services' first start, scan"
