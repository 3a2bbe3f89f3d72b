# containers and one machine: nothing that a hostile scanner sends, as the scanner of a job, comes to another link, to
# this machine, or to its target under another name; whatever rules Docker and firewalld have laid there before, and
# after they were told of the slots. What they drop until then is told, and is no finding.
agent alice
accept_lacks
far=10.99.0.5 # off scope, on a second link, and where the default route leads
docker=no
down() {
	rm -f /etc/secmcpd/conf.d/hostile.yaml
	nothing_laid
	lab_down
	nft delete table inet watch 2>/dev/null || true
	ip netns del far 2>/dev/null || true
	ip route del default 2>/dev/null || true
	systemctl restart secmcpd-launcher.service secmcpd.service
}

# Rules as these programs lay them: Docker 20.10 with a published port, through the iptables of Debian; firewalld 1.3
# with one zone that masquerades, without those of its chains that are empty.
docker_laid() {
	ip link add docker0 type bridge
	ip addr add 172.17.0.1/16 dev docker0
	ip link set docker0 up
	docker=yes
	iptables-restore <<-RULES
		*filter
		:INPUT ACCEPT
		:FORWARD DROP
		:OUTPUT ACCEPT
		:DOCKER -
		:DOCKER-ISOLATION-STAGE-1 -
		:DOCKER-ISOLATION-STAGE-2 -
		:DOCKER-USER -
		-A FORWARD -j DOCKER-USER
		-A FORWARD -j DOCKER-ISOLATION-STAGE-1
		-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		-A FORWARD -o docker0 -j DOCKER
		-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
		-A FORWARD -i docker0 -o docker0 -j ACCEPT
		-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
		-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
		-A DOCKER-ISOLATION-STAGE-1 -j RETURN
		-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
		-A DOCKER-ISOLATION-STAGE-2 -j RETURN
		-A DOCKER-USER -j RETURN
		COMMIT
		*nat
		:PREROUTING ACCEPT
		:INPUT ACCEPT
		:OUTPUT ACCEPT
		:POSTROUTING ACCEPT
		:DOCKER -
		-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
		-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
		-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
		-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
		-A DOCKER -i docker0 -j RETURN
		-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80
		COMMIT
	RULES
}
firewalld_laid() {
	nft -f - <<-RULES
		table inet firewalld {
			chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; policy accept; jump nat_POSTROUTING_ZONES; }
			chain nat_POSTROUTING_ZONES { goto nat_POST_public; }
			chain nat_POST_public { jump nat_POST_public_allow; }
			chain nat_POST_public_allow { meta nfproto ipv4 oifname != "lo" masquerade; }
			chain filter_PREROUTING {
				type filter hook prerouting priority filter + 10; policy accept
				icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
				meta nfproto ipv6 fib saddr . mark . iif oif missing drop
			}
			chain filter_INPUT {
				type filter hook input priority filter + 10; policy accept
				ct state { established, related } accept
				ct status dnat accept
				iifname "lo" accept
				ct state invalid drop
				jump filter_INPUT_ZONES
				reject with icmpx admin-prohibited
			}
			chain filter_INPUT_ZONES { goto filter_IN_public; }
			chain filter_IN_public {
				jump filter_IN_public_allow
				meta l4proto { icmp, ipv6-icmp } accept
				reject with icmpx admin-prohibited
			}
			chain filter_IN_public_allow { tcp dport 22 accept; ip6 daddr fe80::/64 udp dport 546 accept; }
			chain filter_FORWARD {
				type filter hook forward priority filter + 10; policy accept
				ct state { established, related } accept
				ct status dnat accept
				iifname "lo" accept
				ct state invalid drop
				jump filter_FORWARD_ZONES
				reject with icmpx admin-prohibited
			}
			chain filter_FORWARD_ZONES { goto filter_FWD_public; }
			chain filter_FWD_public { reject with icmpx admin-prohibited; }
			chain filter_OUTPUT {
				type filter hook output priority filter + 10; policy accept
				ct state { established, related } accept
				oifname "lo" accept
			}
		}
	RULES
}
nothing_laid() {
	nft delete table inet firewalld 2>/dev/null || true
	[ "$docker" = no ] || {
		docker=no
		ip link del docker0
		nft delete table ip filter
		nft delete table ip nat
	}
}

lab_up 22
trap down EXIT
sysctl -qw net.ipv6.conf.lab0.disable_ipv6=1
ip netns exec lab nft -f - <<-RULES
	table inet strange {
		counter strange { }
		chain seen { type filter hook prerouting priority -400; ip saddr $outside ip daddr $lab accept; counter name strange; }
	}
RULES
ip netns add far
ip link add far0 type veth peer name eth0 netns far
sysctl -qw net.ipv6.conf.far0.disable_ipv6=1
ip addr add 10.99.0.1/24 dev far0
ip link set far0 up
ip -n far addr add "$far/24" dev eth0
ip netns exec far sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
ip -n far link set eth0 up
# Both ends know each other, so that neither has to ask: whatever frame comes is somebody's.
ip neigh replace "$far" dev far0 nud permanent lladdr "$(ip netns exec far cat /sys/class/net/eth0/address)"
ip -n far neigh replace 10.99.0.1 dev eth0 nud permanent lladdr "$(cat /sys/class/net/far0/address)"
ip route add default via "$far"
nft -f - <<-RULES
	table inet watch {
		counter entered { }
		chain input { type filter hook input priority -400; iifname "secv*" counter name entered; }
	}
RULES
frames() { ip netns exec far cat /proc/net/dev | awk '$1 == "eth0:" {print $3}'; } # of any kind that came to the second link
entered() { nft -j list counter inet watch entered | labtool get 'nftables[1].counter.packets'; }
strange() { ip netns exec lab nft -j list counter inet strange strange | labtool get 'nftables[1].counter.packets'; }

# What an honest scan sees, and what doctor has said of other firewalls.
look() { call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}"; }
doctor_of() {
	local i
	for i in {0..40}; do
		if [ "$(labtool get "[$i].check" </tmp/doctor)" = "other firewalls" ]; then break; fi
	done
	labtool get "[$i].$1" </tmp/doctor
}
declare -A mend # what doctor says is to be done, by firewall
mended() { bash -c "${mend[$laid]%, and the same*}"; }
for laid in nothing_laid docker_laid firewalld_laid; do
	$laid
	result=$(look)
	if [ "$laid" != nothing_laid ]; then
		equal "$laid: open ports" "$(value summary.open_ports "$result")" 0
		equal "$laid: hosts that answered" "$(value summary.hosts_up "$result")" 0
		contains "$laid: what the result says" "$(value next "$result")" 'secmcpd doctor'
		secmcpd doctor --json >/tmp/doctor || true # of warnings
		contains "$laid: what doctor says" "$(doctor_of found)" "drops what is forwarded"
		mend[$laid]=$(doctor_of mend)
		echo "${mend[$laid]}"
		mended
		result=$(look)
	fi
	equal "$laid: open ports" "$(value summary.open_ports "$result")" 1
	nothing_laid
done

# The scanner of the daemon is an attacker's now. attack TARGET prints what it has tried.
install -m 755 /test/bin/attack /usr/local/bin/attack
echo '{scanners: {nmap: /usr/local/bin/attack}, breakers: {enabled: false}}' >/etc/secmcpd/conf.d/hostile.yaml
docker_laid # a launcher that starts behind it cannot prove its filter, and says so
systemctl restart secmcpd-launcher.service secmcpd.service
unproven() { journalctl --no-pager -o cat --since "$begun" -u secmcpd-launcher | grep -q "another firewall drops it, most likely"; }
eventually 30 unproven
told() { grep -q "unproven when the launcher started" <<<"$(secmcpd status)"; }
eventually 10 told
nothing_laid
attack() {
	local job
	job=$(value job_id "$(call alice nmap_scan "{\"targets\": [\"$1\"], \"ports\": [1], \"scan_type\": \"syn\", \"skip_discovery\": true, \"wait_s\": 45}")")
	cat "/var/lib/secmcpd/jobs/$job/nmap.xml"
}
for laid in nothing_laid docker_laid firewalld_laid; do
	$laid
	[ "$laid" = nothing_laid ] || mended
	before="$(frames) $(entered) $(strange)"
	attack "$lab" >/tmp/tried
	sleep 1
	equal "$laid: frames at the second link, packets to this machine, strange ones at the target" "$(frames) $(entered) $(strange)" "$before"
	sent=$(grep -c ' sent 3 of 3' /tmp/tried || true)
	echo "$laid: $sent kinds of attack were sent, the others refused"
	[ "$sent" -ge 40 ] || fail "$laid: only $sent of the attacks were sent: $(cat /tmp/tried)"
	# The same where that link is the target: all who count have eyes.
	attack "$far" >/dev/null
	[ "$(frames)" -gt "${before%% *}" ] || fail "$laid: nothing came to the second link when it was the target"
	nothing_laid
done
nft add rule inet watch input iifname lo counter name entered
exec 3<>/dev/udp/127.0.0.1/9 && echo >&3
[ "$(entered)" -gt 0 ] || fail "the counter of this machine has no eyes"
ip addr add 10.77.0.9/24 dev lab0
before=$(strange)
ip route replace "$lab" dev lab0 src 10.77.0.9
echo >"/dev/udp/$lab/9"
seen_strange() { [ "$(strange)" -gt "$before" ]; }
eventually 5 seen_strange
