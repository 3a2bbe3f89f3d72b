package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// links is how the names of the slots' links begin.
const links = "secv"

// lookForward finds other firewalls that drop what is forwarded. Our own table takes nothing back
// from them: scans would end well, and every host be silent.
func lookForward() finding {
	if os.Geteuid() != 0 {
		return warning("not looked at without root", "", "sudo secmcpd doctor")
	}
	dropping, err := droppingChains()
	if err != nil {
		return warning("cannot read the firewall's rules: "+err.Error(), "whether another firewall drops what scans send is not known", "")
	}
	var found, mend []string
	for _, c := range dropping {
		found = append(found, "the chain "+c+" drops what is forwarded")
		mend = append(mend, fmt.Sprintf(`insert rule %[1]s iifname "%[2]s*" accept; insert rule %[1]s oifname "%[2]s*" accept`, c, links))
	}
	if len(mend) > 0 {
		mend = []string{"nft '" + strings.Join(mend, "; ") + "'"}
	}
	for _, o := range olders {
		drops, err := o.drops()
		switch {
		case err != nil:
			found = append(found, o.command+" has rules, and they cannot be read: "+err.Error())
			mend = append(mend, o.command+" -S FORWARD")
		case drops:
			found = append(found, "the chain FORWARD of "+o.command+" drops what is forwarded")
			mend = append(mend, fmt.Sprintf("%[1]s -I FORWARD -i %[2]s+ -j ACCEPT && %[1]s -I FORWARD -o %[2]s+ -j ACCEPT", o.command, links))
		}
	}
	if len(found) == 0 {
		return ok("no forward chain drops what scans send")
	}
	return warning(strings.Join(found, "\n"), "what scans send does not leave this machine, or its answers are lost: hosts look silent or down",
		strings.Join(mend, "\n")+", and the same in that firewall's own configuration")
}

// droppingChains are the forward chains of others that drop what they do not know and that nothing
// tells of the slots' links, as nft names them: family, table, chain.
func droppingChains() (names []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	families := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
	for _, c := range chains {
		family := families[c.Table.Family]
		if family == "" || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return nil, err
		}
		if !dropsTheRest(c, rules) {
			continue
		}
		// In any chain of its table: Docker's jumps to one that is for the operator's rules.
		var all []*nftables.Rule
		for _, of := range chains {
			if of.Table.Name == c.Table.Name && of.Table.Family == c.Table.Family {
				rules, err := conn.GetRules(of.Table, of)
				if err != nil {
					return nil, err
				}
				all = append(all, rules...)
			}
		}
		if !accepts(all, expr.MetaKeyIIFNAME) || !accepts(all, expr.MetaKeyOIFNAME) {
			names = append(names, fmt.Sprintf("%s %s %s", family, c.Table.Name, c.Name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// dropsTheRest says that a chain drops by its policy, or by a last rule that is for everything.
func dropsTheRest(c *nftables.Chain, rules []*nftables.Rule) bool {
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		return true
	}
	if len(rules) == 0 {
		return false
	}
	switch matches, verdict := parts(rules[len(rules)-1]); v := verdict.(type) {
	case *expr.Verdict:
		return len(matches) == 0 && v.Kind == expr.VerdictDrop
	case *expr.Reject:
		return len(matches) == 0
	}
	return false
}

// accepts says that a rule accepts whatever comes from, or goes to, the slots' links.
func accepts(rules []*nftables.Rule, key expr.MetaKey) bool {
	return slices.ContainsFunc(rules, func(r *nftables.Rule) bool {
		matches, verdict := parts(r)
		v, is := verdict.(*expr.Verdict)
		if !is || v.Kind != expr.VerdictAccept || len(matches) != 2 {
			return false
		}
		meta, isMeta := matches[0].(*expr.Meta)
		cmp, isCmp := matches[1].(*expr.Cmp)
		return isMeta && meta.Key == key && isCmp && cmp.Op == expr.CmpOpEq && bytes.Equal(cmp.Data, []byte(links))
	})
}

// parts are the matches of a rule, and what it does at its end; its counters and logs are neither.
func parts(r *nftables.Rule) (matches []expr.Any, verdict expr.Any) {
	for _, e := range r.Exprs {
		switch e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Verdict, *expr.Reject:
			verdict = e
		default:
			matches = append(matches, e)
		}
	}
	return matches, verdict
}
