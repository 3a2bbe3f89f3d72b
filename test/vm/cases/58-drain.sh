# container only: a stop lets a running scan go on for the grace, longer than TimeoutStopSec=; a second signal does not wait.
hog_up 'shutdown: {grace: 15s}'
mkdir -p /run/systemd/system/secmcpd-launcher.service.d
printf '[Service]\nTimeoutStopSec=5s\n' >/run/systemd/system/secmcpd-launcher.service.d/stop.conf
systemctl daemon-reload
trap 'rm -rf /run/systemd/system/secmcpd-launcher.service.d; systemctl daemon-reload; settings_gone hog' EXIT
job=$(hog time)
eventually 20 runs "$job"
begun_ms=$(now)
systemctl stop --no-block secmcpd-launcher.service
drains() { [[ $(property secmcpd-launcher.service StatusText) == "draining: 1 scan has until "* ]]; }
eventually 5 drains
sleep 7
runs "$job" || fail "the scan was ended before the grace was over"
gone() { ! active secmcpd-launcher.service && [ "$(property secmcpd-launcher.service ActiveState)" != deactivating ]; }
eventually 40 gone
took=$(($(now) - begun_ms))
echo "stopped in $took ms"
[ "$took" -ge 14000 ] || fail "the grace was cut: $took ms"
equal "how it ended" "$(property secmcpd-launcher.service Result)" success
no_scanner || fail "a scanner lives on"
equal "reason" "$(value end.reason "$(ended "$job")")" shutdown
# The second signal.
job=$(hog time)
eventually 20 runs "$job"
begun_ms=$(now)
systemctl stop --no-block secmcpd-launcher.service
eventually 5 drains
systemctl kill --kill-whom=main secmcpd-launcher.service 2>/dev/null || systemctl kill --kill-who=main secmcpd-launcher.service
eventually 10 gone
[ $(($(now) - begun_ms)) -lt 15000 ] || fail "the second signal waited"
equal "reason" "$(value end.reason "$(ended "$job")")" shutdown
