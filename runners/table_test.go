package runners

// What most tests are about: the built-in scanners.

func Read(tool string, arguments []byte) (Call, []Fault) { return BuiltIn().Read(tool, arguments) }

func Validate(c Call) []Fault {
	_, faults := BuiltIn().Validate(c)
	return faults
}

func Tools() []Tool                                        { return BuiltIn().Tools() }
func Profiles(tool string) ([]string, bool)                { return BuiltIn().Profiles(tool) }
func VersionArguments(scanner string) [][]string           { return BuiltIn().VersionArguments(scanner) }
func HelpArguments(scanner string) [][]string              { return BuiltIn().HelpArguments(scanner) }
func Known(scanner string, v Version, help [][]byte) error { return BuiltIn().Known(scanner, v, help) }
func ParseVersion(scanner string, line []byte) (Version, error) {
	return BuiltIn().ParseVersion(scanner, line)
}
