package Greeting;
use strict;
use warnings;

our $VERSION = "1.0";

sub greet { return "hello, $_[0]\n" }

1;
__END__

=head1 NAME

Greeting - greets

=cut
