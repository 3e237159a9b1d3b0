package portmap

// Text returns the words for d.
func (d Direction) Text() Text { return directions[d] }

// Text returns the words for o; none for a row that nobody has to open.
func (o Opening) Text() Text { return openings[o] }

// Text returns the words for c.
func (c Capability) Text() Text { return capabilities[c] }

// Text returns the words for s.
func (s State) Text() Text { return states[s] }

var directions = map[Direction]Text{
	Out:    {"ausgehend", "outbound"},
	In:     {"eingehend", "inbound"},
	Inside: {"intern", "internal"},
}

var openings = map[Opening]Text{
	HolePunching: {"Hole Punching", "hole punching"},
	Static:       {"fest", "static"},
}

var capabilities = map[Capability]Text{
	Clock:      {"Uhr", "clock"},
	Cloud:      {"Cloud-Konto", "cloud account"},
	Calls:      {"Gespräche", "calls"},
	Traversal:  {"Gespräche durch NAT", "calls through NAT"},
	Page:       {"Seite", "page"},
	Discovery:  {"Finden im LAN", "discovery in the LAN"},
	Addressing: {"eigene Adresse", "own address"},
	Diagnosis:  {"Fehlersuche", "diagnosis"},
}

var states = map[State]Text{
	Open:    {"offen", "open"},
	Blocked: {"gesperrt", "blocked"},
	Unknown: {"unbekannt", "unknown"},
}
