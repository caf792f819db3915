module muster.test/dns

go 1.26
