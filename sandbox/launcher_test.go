package sandbox

func launcherMain() int { return 1 }
func userMain() int     { return 1 }
