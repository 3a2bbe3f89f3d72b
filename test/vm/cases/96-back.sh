# container only: going back to the build of 95-previous is refused by both rooms, each says why, and nothing is spoilt.
# shellcheck source=/dev/null
. /run/previous
dpkg -i "$previous" </dev/null
equal "version" "$(dpkg-query -W -f '${Version}' secmcpd)" "$old"
for unit in secmcpd.service secmcpd-launcher.service; do
	refused systemctl start "$unit"
	journalctl --no-pager --since "$begun" -u "$unit" -o cat | grep ^secmcpd: | tail -n 1
done
contains "journal of the front" "$(journalctl --no-pager --since "$begun" -u secmcpd.service -o cat)" "a newer secmcpd wrote it"
dpkg -i "$deb" </dev/null
now_has
equal "the scan before going back" "$(value status "$(call alice job_status "{\"job_id\": \"$third\", \"wait_s\": 0}")")" completed
