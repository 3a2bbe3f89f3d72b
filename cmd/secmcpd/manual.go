package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual pages, in mdoc(7). That of the program is a page by hand with the commands in it, as they are; the
// others are documents of docs/, or parts of them.

const commandsMark = `.\" @COMMANDS@`

// manualCommand fills in a manual page; the package is made with it.
func manualCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "manual PAGE", Hidden: true, Args: cobra.ExactArgs(1), ValidArgs: append([]string{"secmcpd"}, slices.Sorted(maps.Keys(documents))...),
		Short: "make a manual page of what is on standard input",
		RunE: func(c *cobra.Command, args []string) error {
			text, err := io.ReadAll(io.LimitReader(s.stdin, 1<<20))
			if err != nil {
				return err
			}
			page := ""
			switch args[0] {
			case "secmcpd":
				before, after, is := strings.Cut(string(text), commandsMark+"\n")
				if !is {
					return fmt.Errorf("the page has no line %q", commandsMark)
				}
				page = before + commandsPart(c.Root()) + after
			default:
				document, is := documents[args[0]]
				if !is {
					return usage(c, fmt.Errorf("there is no page %q", args[0]))
				}
				if page, err = documentPage(document, string(text)); err != nil {
					return err
				}
			}
			_, err = io.WriteString(s.stdout, page)
			return err
		},
	}
}

// ofTools says that the commands below a command are one for each tool, with flags made of its arguments.
const ofTools = "tools"

// commandsPart is every command of the program, with its flags.
func commandsPart(root *cobra.Command) string {
	var b strings.Builder
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c != root {
			fmt.Fprintf(&b, ".Ss %s\\&\n", mdocWords(strings.NewReplacer(" [flags]", "", "...", " ...").Replace(strings.TrimPrefix(c.UseLine(), "secmcpd "))))
			about := c.Long
			if about == "" {
				about = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
			}
			mdocText(&b, about)
		}
		var common []*pflag.Flag
		if c.Annotations[ofTools] != "" {
			common = commonFlags(c.Commands())
			mdocText(&b, "For every tool:")
			mdocFlags(&b, common)
			if c.Annotations[ofTools] == "briefly" {
				mdocText(&b, "Besides, each tool's arguments, as scan has them.")
				return
			}
		} else if c.Parent() != nil && c.Parent().Annotations[ofTools] != "" {
			common = commonFlags(c.Parent().Commands())
		}
		var own []*pflag.Flag
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && f.Name != "help" && !slices.ContainsFunc(common, func(other *pflag.Flag) bool { return other.Name == f.Name }) {
				own = append(own, f)
			}
		})
		if c != root {
			c.PersistentFlags().VisitAll(func(f *pflag.Flag) { own = append(own, f) })
		}
		mdocFlags(&b, own)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return b.String()
}

// commonFlags are those that all of some commands have, and that are the same there.
func commonFlags(all []*cobra.Command) (common []*pflag.Flag) {
	if len(all) == 0 {
		return nil
	}
	all[0].LocalFlags().VisitAll(func(f *pflag.Flag) {
		everywhere := f.Name != "help"
		for _, c := range all[1:] {
			other := c.LocalFlags().Lookup(f.Name)
			everywhere = everywhere && other != nil && other.Usage == f.Usage
		}
		if everywhere {
			common = append(common, f)
		}
	})
	return common
}

// kinds are what values are called.
var kinds = map[string]string{"string": "text", "stringArray": "text", "strings": "list", "uints": "list", "int": "number", "uint": "number", "uint32": "number", "LIST": "list", "TEXT": "text"}

func mdocFlags(b *strings.Builder, flags []*pflag.Flag) {
	if len(flags) == 0 {
		return
	}
	slices.SortFunc(flags, func(a, b *pflag.Flag) int { return strings.Compare(a.Name, b.Name) })
	b.WriteString(".Bl -tag -width Ds -compact\n")
	for _, f := range flags {
		b.WriteString(".It ")
		if f.Shorthand != "" {
			fmt.Fprintf(b, "Fl %s , ", mdocWords(f.Shorthand))
		}
		fmt.Fprintf(b, "Fl -%s", mdocWords(f.Name))
		if kind, _ := pflag.UnquoteUsage(f); kind != "" && f.NoOptDefVal == "" {
			fmt.Fprintf(b, " Ar %s", mdocWords(cmp.Or(kinds[kind], strings.ToLower(kind))))
		}
		b.WriteByte('\n')
		_, about := pflag.UnquoteUsage(f)
		if def := f.DefValue; def != "" && def != "false" && def != "[]" && def != "0" && def != "0s" {
			about += " (default " + def + ")"
		}
		mdocLines(b, about)
	}
	b.WriteString(".El\n")
}

// mdocText is paragraphs.
func mdocText(b *strings.Builder, text string) {
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if s := b.String(); !strings.HasPrefix(s[strings.LastIndexByte(strings.TrimSuffix(s, "\n"), '\n')+1:], ".S") { // it is a paragraph already
			b.WriteString(".Pp\n")
		}
		mdocLines(b, paragraph)
	}
}

var sentence = regexp.MustCompile(`([.;:]) +`)

// mdocLines is text in lines, where each sentence begins a new one, and none is a macro.
func mdocLines(b *strings.Builder, text string) {
	text = strings.Join(strings.Fields(text), " ")
	for line := range strings.SplitSeq(sentence.ReplaceAllString(text, "$1\n"), "\n") {
		if line == "" {
			continue
		}
		for line != "" {
			part := line
			if at := strings.LastIndexByte(line[:min(len(line), mdocWidth)], ' '); len(line) > mdocWidth && at > 0 {
				part = line[:at]
			}
			line = strings.TrimPrefix(line[len(part):], " ")
			part = mdocEscaped(part)
			if part[0] == '.' || part[0] == '\'' {
				part = `\&` + part
			}
			b.WriteString(part + "\n")
		}
	}
}

// mdocWidth is how long a line of text is at most, if it has spaces.
const mdocWidth = 78

func mdocEscaped(text string) string { return strings.ReplaceAll(text, `\`, `\e`) }

var macro = regexp.MustCompile(`^[A-Z][a-z0-9]{1,2}$|^[.,:;()\[\]?!|]$`)

// mdocWords is text behind a macro: no word of it is one.
func mdocWords(text string) string {
	words := strings.Fields(mdocEscaped(text))
	for i, w := range words {
		if macro.MatchString(w) {
			words[i] = `\&` + w
		}
	}
	return strings.Join(words, " ")
}

func mdocHead(name, section, about string) string {
	return fmt.Sprintf(".Dd $Mdocdate$\n.Dt %s %s\n.Os\n.Sh NAME\n.Nm %s\n.Nd %s\n", strings.ToUpper(name), section, name, about)
}

// manualPage is a page that is made of a document: of all of it, or of one section.
type manualPage struct {
	name, section, about string
	part                 string // its heading; "": the whole document
	files                []string
	also                 []string
}

// documents are the pages that are made of documents, by what `secmcpd manual` calls them.
var documents = map[string]manualPage{
	"settings": {"secmcpd.yaml", "5", "the settings of secmcpd", "Settings",
		[]string{"/etc/secmcpd/secmcpd.yaml", "/etc/secmcpd/conf.d/*.yaml"}, []string{"secmcpd-engagement 5", "secmcpd-runner 5", "secmcpd 8"}},
	"engagement": {"secmcpd-engagement", "5", "who may scan what, when and how hard", "",
		[]string{"/etc/secmcpd/engagements.d/*.yaml"}, []string{"secmcpd-runner 5", "secmcpd.yaml 5", "secmcpd-troubleshooting 7", "secmcpd 8"}},
	"runner": {"secmcpd-runner", "5", "scanners that an operator declares", "",
		[]string{"/etc/secmcpd/runners.d/*.yaml", "/usr/share/doc/secmcpd/examples/runners.d/"}, []string{"secmcpd-engagement 5", "secmcpd.yaml 5", "secmcpd 8"}},
	"troubleshooting": {"secmcpd-troubleshooting", "7", "what secmcpd says, what it means, what to do", "",
		nil, []string{"secmcpd-engagement 5", "secmcpd.yaml 5", "secmcpd 8"}},
}

var link = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)

// documentPage is a page of a document of this repository, which uses headings, paragraphs, tables, lists and blocks of code.
func documentPage(page manualPage, text string) (string, error) {
	if page.part != "" {
		_, part, is := strings.Cut(text, "\n## "+page.part+"\n")
		if !is {
			return "", fmt.Errorf("there is no section %q", page.part)
		}
		text, _, _ = strings.Cut(part, "\n## ")
	} else if _, after, is := strings.Cut(text, "\n"); is && strings.HasPrefix(text, "# ") {
		text = after
	}
	var b strings.Builder
	b.WriteString(mdocHead(page.name, page.section, page.about) + ".Sh DESCRIPTION\n")
	for blocks := documentBlocks(text); len(blocks) > 0; blocks = blocks[1:] {
		mdocBlock(&b, blocks[0])
	}
	if len(page.files) > 0 {
		b.WriteString(".Sh FILES\n.Bl -tag -width Ds -compact\n")
		for _, file := range page.files {
			fmt.Fprintf(&b, ".It Pa %s\n", file)
		}
		b.WriteString(".El\n")
	}
	b.WriteString(".Sh SEE ALSO\n")
	for i, other := range page.also {
		comma := " ,"
		if i == len(page.also)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, ".Xr %s%s\n", other, comma)
	}
	return b.String(), nil
}

// documentBlocks are the parts of a document between empty lines; a block of code is one.
func documentBlocks(text string) (blocks [][]string) {
	var block []string
	end := func() {
		if len(block) > 0 {
			blocks, block = append(blocks, block), nil
		}
	}
	code := false
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		switch fence := strings.HasPrefix(line, "```"); {
		case fence && !code:
			end()
			code, block = true, []string{line}
		case fence:
			code = false
			end()
		case code:
			block = append(block, line)
		case line == "":
			end()
		default:
			block = append(block, line)
		}
	}
	end()
	return blocks
}

var listItem = regexp.MustCompile(`^(- |[0-9]+\. )`)

func mdocBlock(b *strings.Builder, block []string) {
	first := block[0]
	switch {
	case strings.HasPrefix(first, "```"):
		b.WriteString(".Bd -literal -offset 2n\n")
		for _, line := range block[1:] {
			line = strings.ReplaceAll(mdocEscaped(line), "\t", "    ")
			if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
				line = `\&` + line
			}
			b.WriteString(line + "\n")
		}
		b.WriteString(".Ed\n")
	case strings.HasPrefix(first, "## "):
		fmt.Fprintf(b, ".Sh %s\n", mdocWords(strings.ToUpper(plainWords(first[3:]))))
	case strings.HasPrefix(first, "### "):
		fmt.Fprintf(b, ".Ss %s\n", mdocWords(plainWords(first[4:])))
	case strings.HasPrefix(first, "| ") && len(block) > 2:
		mdocTable(b, block)
	case listItem.MatchString(first):
		kind := map[bool]string{true: "bullet", false: "enum"}[strings.HasPrefix(first, "- ")]
		fmt.Fprintf(b, ".Bl -%s\n", kind)
		for items := block; len(items) > 0; {
			n := 1
			for n < len(items) && !listItem.MatchString(items[n]) {
				n++
			}
			b.WriteString(".It\n")
			mdocLines(b, plainWords(listItem.ReplaceAllString(strings.Join(items[:n], " "), "")))
			items = items[n:]
		}
		b.WriteString(".El\n")
	default:
		mdocText(b, plainWords(strings.Join(block, "\n")))
	}
}

// mdocTable is a list: a row has its first cell as its tag, then the others, with their headings but for the last.
func mdocTable(b *strings.Builder, rows []string) {
	cells := func(row string) []string {
		row = strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(row, "|"), "|"), `\|`, "\x00")
		parts := strings.Split(row, "|")
		for i, part := range parts {
			parts[i] = strings.ReplaceAll(strings.TrimSpace(plainWords(part)), "\x00", "|")
		}
		return parts
	}
	heads := cells(rows[0])
	b.WriteString(".Bl -tag -width Ds\n")
	for _, row := range rows[2:] {
		parts := cells(row)
		fmt.Fprintf(b, ".It Cm %s\n", mdocWords(parts[0]))
		told := false
		for i, part := range parts[1:] {
			if part == "" {
				continue
			}
			if told {
				b.WriteString(".br\n")
			}
			if head := heads[i+1]; head != "" && i+2 < len(parts) {
				part = strings.ToUpper(head[:1]) + head[1:] + ": " + part
			}
			mdocLines(b, part)
			told = true
		}
	}
	b.WriteString(".El\n")
}

// plainWords is text without the marks of Markdown.
func plainWords(text string) string {
	return strings.NewReplacer("`", "", "**", "").Replace(link.ReplaceAllString(text, "$1"))
}
