# What the Vagrantfile's machines run after the installation works: the lab, and a user's first scan.
accept_lacks
# Guests that are containers share a kernel, and with it what a user may start: the doctor of another would take part.
settings own-uids <<<"slots: {first_uid: $((70000 + RANDOM % 290 * 100))}"
trap '"$vagrant/lab" down; settings_gone own-uids' EXIT
"$vagrant/lab" up
"$vagrant/lab" listen 22 80
said=$("$vagrant/first-scan" vagrant 2>&1) || fail "$said"
echo "$said"
contains "the scan" "$said" "2 open"
"$vagrant/lab" down
refused ip link show lab0
refused systemctl is-active secmcpd-lab.service
"$vagrant/lab" down # once more harms nothing
