#!/bin/sh
# Turns deploy/systemd/defib.service, which is for installing by hand, into the unit of the package: the program is in /usr/bin, and the
# user is the one of sysusers.d instead of one that exists only while the service runs, because its group owns the configuration.
#
# usage: deploy/debian/unit.sh <deploy/systemd/defib.service
set -eu

sed -e '/^#   install -m 755/,/^#   systemctl daemon-reload/c\
#   Set DEFIB_DATABASE_URL in /etc/defib/defib.env, then: systemctl enable --now defib' \
    -e 's|^ExecStart=/usr/local/bin/defib |ExecStart=/usr/bin/defib |' \
    -e 's|^DynamicUser=yes$|User=defib\nGroup=defib|' \
    -e 's|^Description=.*|&\nDocumentation=man:defib(1) file:/usr/share/doc/defib/install.md|'
