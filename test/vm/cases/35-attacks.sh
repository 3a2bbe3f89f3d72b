# one machine only: the host's tests try the host's kernel
# On this kernel: every attack is seen where nothing filters, and none leaves a slot, whatever filters
# there and whether or not it is translated. Users who are not root run the sender.
trap 'rm -f /var/tmp/attack' EXIT
install -m 755 /test/bin/attack /var/tmp/attack
SECMCPD_ATTACK=/var/tmp/attack lab.test -test.v -test.run '^(TestEveryAttackIsSeen|TestNoAttackLeavesASlot)$'
