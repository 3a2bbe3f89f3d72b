# containers and one machine: the machine goes down in the midst of a scan: a container in an orderly way, a machine as
# when the mains fail.
hog_up
job=$(finding)
echo "$job" >/var/tmp/rebooted-job
# What has reached the disk is all that a failure of the mains leaves.
sync /var/tmp/rebooted-job /var/tmp "/var/lib/secmcpd-launcher/boxes/$job/stdout"
trap - EXIT # whatever runs goes down with the machine
if systemd-detect-virt --quiet --container; then reboots orderly; else reboots cut; fi
