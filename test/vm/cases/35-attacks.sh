# one machine only: the host's tests try the host's kernel
# On this kernel: every attack is seen where nothing filters, and none leaves a slot, whatever filters
# there and whether or not it is translated. The sender's users are not root. What is left out the host tries.
trap 'rm -f /var/tmp/attack' EXIT
install -m 755 /test/bin/attack /var/tmp/attack
SECMCPD_ATTACK=/var/tmp/attack lab.test -test.v -test.run '^(TestEveryAttackIsSeen|TestNoAttackLeavesASlot)$/^(a_network|the_same|IPv6|translated,_a_network)'
