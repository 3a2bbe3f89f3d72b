package main

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// The binary of this test is one of Go's like any other.
func TestABillNamesEachModuleOnce(t *testing.T) {
	file, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	made := time.Unix(1, 0).UTC()
	text, err := describe(file, "1.2.3", made)
	if err != nil {
		t.Fatal(err)
	}
	again, err := describe(file, "1.2.3", made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, again) {
		t.Error("the same binary gives two bills")
	}
	later, err := describe(file, "1.2.4", made)
	if err != nil {
		t.Fatal(err)
	}
	var b, other bill
	for text, into := range map[*[]byte]*bill{&text: &b, &later: &other} {
		if err := json.Unmarshal(*text, into); err != nil {
			t.Fatal(err)
		}
	}
	if b.Serial == other.Serial {
		t.Errorf("two bills have the serial number %s", b.Serial)
	}
	seen := map[string]bool{}
	for _, c := range b.Components {
		if seen[c.Ref] {
			t.Errorf("%s is named twice", c.Ref)
		}
		seen[c.Ref] = true
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build information")
	}
	for _, m := range info.Deps {
		if !seen["pkg:golang/"+m.Path+"@"+m.Version] {
			t.Errorf("%s %s is not named", m.Path, m.Version)
		}
	}
	if !seen["go"] {
		t.Error("Go itself is not named")
	}
}

func TestLicencesAreToldByTheirTexts(t *testing.T) {
	const bsd = "Redistribution and use in source and binary forms, with or without modification, "
	for _, row := range []struct{ text, want string }{
		{"The MIT License\n\nPermission is hereby granted, free of charge, to any person", "MIT"},
		{"      Apache License\n   Version 2.0, January 2004", "Apache-2.0"},
		{bsd + "are permitted", "BSD-2-Clause"},
		{bsd + "are permitted\nNeither the name of the author", "BSD-3-Clause"},
		{"/* SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only */\n", "BSD-3-Clause OR GPL-2.0-only"},
		{"Apache License, Version 2.0. Before: Permission is hereby granted, free of charge", "Apache-2.0 AND MIT"},
	} {
		if got, err := licenseIn(row.text); err != nil || got != row.want {
			t.Errorf("%.40q: %q, %v, want %s", row.text, got, err, row.want)
		}
	}
	if got, err := licenseIn("All rights reserved."); err == nil || !strings.Contains(err.Error(), "none that is known") {
		t.Errorf("no licence: %q, %v", got, err)
	}
}
