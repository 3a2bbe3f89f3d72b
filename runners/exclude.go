package runners

import "net/netip"

// maxExclude bounds what a call may leave out of its targets, in entries.
const maxExclude = 256

func excludeField(about string) field {
	s := schema{Type: "string"}
	most := maxExclude
	return field{"exclude", schema{Type: "array", Description: about, MaxItems: &most, Items: &s}}
}

// canonicalExclude is the list in its one spelling; none is no list.
func canonicalExclude(texts []string) []string {
	if len(texts) == 0 {
		return nil
	}
	texts, _ = canonicalTargets(texts)
	return texts
}

// excludeFaults are those of what a call leaves out. Names are none of it: what they stand for is known only when the
// scan starts, and an exclusion that came to mean something else would be a hole, or none.
func excludeFaults(texts []string, version int) (faults []Fault) {
	if len(texts) > maxExclude {
		return []Fault{tooMany("exclude", len(texts), maxExclude)}
	}
	for i, text := range texts {
		field := element("exclude", i)
		t, fault := readTarget(field, text)
		switch {
		case fault != nil:
			faults = append(faults, *fault)
		case t.Name != "":
			faults = append(faults, Fault{Code: "target_address", Field: field, Got: excerpt(text), Hint: "leave out addresses and networks; a name is no exclusion", Example: "10.0.0.5, 10.0.0.64/26"})
		case t.Text != text:
			faults = append(faults, notCanonical(field, text, t.Text))
		case family(t.Prefix) != version:
			faults = append(faults, Fault{Code: "mixed_families", Field: field, Got: excerpt(text), Hint: "it is of the other version of IP than the targets", with: "targets"})
		}
	}
	if len(faults) == 0 && len(once(texts)) != len(texts) {
		faults = append(faults, notCanonical("exclude", "an entry twice", "each once"))
	}
	return faults
}

// readExclude is the networks that a valid call leaves out.
func readExclude(texts []string) (out []netip.Prefix) {
	for _, t := range readTargets(texts) {
		out = append(out, t.Prefix)
	}
	return out
}
