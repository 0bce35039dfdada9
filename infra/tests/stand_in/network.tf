# moto does not store the descriptions of rules with a group or a prefix list.
resource "aws_vpc_security_group_egress_rule" "way" {
  lifecycle {
    ignore_changes = [description]
  }
}

resource "aws_vpc_security_group_ingress_rule" "way" {
  lifecycle {
    ignore_changes = [description]
  }
}
