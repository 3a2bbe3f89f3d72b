# one machine only: a scan needs no user namespace. Where a distribution's AppArmor restricts those, nothing of ours is in its way; AppArmor is on here.
equal "AppArmor" "$(cat /sys/module/apparmor/parameters/enabled)" Y
equal "profile of the launcher" "$(tr -d '\0' <"/proc/$(launcher)/attr/current")" unconfined
agent alice
lab_up 22
most=$(cat /proc/sys/user/max_user_namespaces)
trap 'echo "$most" >/proc/sys/user/max_user_namespaces; lab_down' EXIT
echo 0 >/proc/sys/user/max_user_namespaces
refused unshare --user /bin/true 2>/dev/null # root cannot, either
systemctl restart secmcpd-launcher.service secmcpd.service
done_=$(call alice nmap_scan "{\"targets\": [\"$lab\"], \"ports\": [22], \"wait_s\": 45}")
equal "status" "$(value status "$done_")" completed
equal "open ports" "$(value summary.open_ports "$done_")" 1
