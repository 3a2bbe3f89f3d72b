package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual pages, in mdoc(7). That of the program is a page by hand with the commands in it, as they are;
// that of the settings is made of the table in docs/operating.md, that of engagements of the one that the
// package ships.

const commandsMark = `.\" @COMMANDS@`

// manualCommand fills in a manual page; the package is made with it.
func manualCommand(s *surroundings) *cobra.Command {
	return &cobra.Command{
		Use: "manual PAGE", Hidden: true, Args: cobra.ExactArgs(1), ValidArgs: []string{"secmcpd", "settings", "engagements"},
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
			case "settings":
				if page, err = settingsPage(string(text)); err != nil {
					return err
				}
			case "engagements":
				page = engagementsPage(string(text))
			default:
				return usage(c, fmt.Errorf("there is no page %q", args[0]))
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
			fmt.Fprintf(&b, ".Ss %s\n", mdocWords(strings.NewReplacer(" [flags]", "", "...", " ...").Replace(strings.TrimPrefix(c.UseLine(), "secmcpd "))))
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

var (
	settingRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\| ([^|]+) \\| (.+) \\|$")
	link       = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// settingsPage is made of the table of settings in docs/operating.md.
func settingsPage(operating string) (string, error) {
	_, section, _ := strings.Cut(operating, "\n## Settings\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := settingRow.FindAllStringSubmatch(section, -1)
	if len(rows) == 0 {
		return "", fmt.Errorf("there is no table of settings")
	}
	var b strings.Builder
	b.WriteString(mdocHead("secmcpd.yaml", "5", "the settings of secmcpd"))
	b.WriteString(".Sh DESCRIPTION\n")
	before, _, _ := strings.Cut(section, "\n|")
	mdocLines(&b, plainWords(before))
	mdocText(&b, "A key with a dot is one of a section: jobs.keep is keep below jobs.")
	b.WriteString(".Bl -tag -width Ds\n")
	for _, r := range rows {
		fmt.Fprintf(&b, ".It Cm %s\n", mdocWords(r[1]))
		mdocLines(&b, plainWords(r[3]))
		mdocLines(&b, "Default: "+plainWords(r[2])+".")
	}
	b.WriteString(".El\n.Sh FILES\n.Pa /etc/secmcpd/secmcpd.yaml ,\n.Pa /etc/secmcpd/conf.d/*.yaml\n.Sh SEE ALSO\n.Xr secmcpd-engagement 5 ,\n.Xr secmcpd 8\n")
	return b.String(), nil
}

// plainWords is text without the marks of Markdown.
func plainWords(text string) string {
	return strings.NewReplacer("`", "", "**", "").Replace(link.ReplaceAllString(text, "$1"))
}

// engagementsPage is made of the engagement that the package ships, which explains every key.
func engagementsPage(shipped string) string {
	var b strings.Builder
	b.WriteString(mdocHead("secmcpd-engagement", "5", "who may scan what, when and how hard"))
	b.WriteString(".Sh DESCRIPTION\n")
	mdocLines(&b, "An engagement is a file of YAML in /etc/secmcpd/engagements.d, named after it, owned by root and writable by nobody else. "+
		"It holds from the next decision on, and for what runs within two seconds. secmcpd check tells every fault of every file, secmcpd engagements new prints one to fill in, "+
		"and secmcpd engagements explain says what each makes of a request, and why.")
	mdocText(&b, "This is the one that the package ships, with every key that there is:")
	b.WriteString(".Bd -literal\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(shipped, "\n"), "\n") {
		line = mdocEscaped(line)
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line
		}
		b.WriteString(line + "\n")
	}
	b.WriteString(".Ed\n.Sh SEE ALSO\n.Xr secmcpd.yaml 5 ,\n.Xr secmcpd 8\n")
	return b.String()
}
